//! See [`fuzz::platform_api`].
#![cfg_attr(fuzzing, no_main)]
fuzz::target!(platform_api);
