//! See [`fuzz::message`].
#![cfg_attr(fuzzing, no_main)]
fuzz::target!(message);
