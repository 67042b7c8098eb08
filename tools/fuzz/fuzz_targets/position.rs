//! See [`fuzz::position`].
#![cfg_attr(fuzzing, no_main)]
fuzz::target!(position);
