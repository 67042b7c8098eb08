//! See [`fuzz::open_messaging`].
#![cfg_attr(fuzzing, no_main)]
fuzz::target!(open_messaging);
