//! See [`fuzz::webhook_deliveries`].
#![cfg_attr(fuzzing, no_main)]
fuzz::target!(webhook_deliveries);
