//! See [`fuzz::webhook_headers`].
#![cfg_attr(fuzzing, no_main)]
fuzz::target!(webhook_headers);
