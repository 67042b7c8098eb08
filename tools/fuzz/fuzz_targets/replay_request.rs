//! See [`fuzz::replay_request`].
#![cfg_attr(fuzzing, no_main)]
fuzz::target!(replay_request);
