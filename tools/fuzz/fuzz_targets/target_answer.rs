//! See [`fuzz::target_answer`].
#![cfg_attr(fuzzing, no_main)]
fuzz::target!(target_answer);
