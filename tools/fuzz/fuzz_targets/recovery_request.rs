//! See [`fuzz::recovery_request`].
#![cfg_attr(fuzzing, no_main)]
fuzz::target!(recovery_request);
