//! See [`fuzz::secret`].
#![cfg_attr(fuzzing, no_main)]
fuzz::target!(secret);
