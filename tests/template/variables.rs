//! Environment variables of the functions, from the tables in their `config.rs`.

#![expect(
    dead_code,
    reason = "the configurations are included for their tables only"
)]

use genesys_relay::runtime::config::{Table as _, Variable};

macro_rules! configuration {
    ($($function:ident: $path:literal),*) => {
        $(
            #[path = $path]
            mod $function;
        )*

        /// The variables that a function reads, without those that Lambda itself sets.
        pub(crate) fn of(function: &str) -> Vec<Variable> {
            let variables = match function {
                $(stringify!($function) => $function::Config::variables(),)*
                _ => panic!("no function {function}"),
            };
            variables.into_iter().filter(|variable| !variable.name.starts_with("AWS_LAMBDA_")).collect()
        }
    };
}

configuration! {
    ingest: "../../functions/ingest/src/config.rs",
    processor: "../../functions/processor/src/config.rs",
    replay: "../../functions/replay/src/config.rs",
    recovery: "../../functions/recovery/src/config.rs",
    breaker: "../../functions/breaker/src/config.rs",
    canary: "../../functions/canary/src/config.rs"
}
