//! See [`fuzz::webhook_body`].
#![cfg_attr(fuzzing, no_main)]
fuzz::target!(webhook_body);
