//! Environment variables of the functions, from the tables in their `config.rs`, and the reference
//! page made of them.

#![expect(
    dead_code,
    reason = "the configurations are included for their tables only"
)]

use std::fmt::Write as _;

use genesys_relay::runtime::config::{Table as _, Variable};

use super::*;

/// The page, below the repository.
const PAGE: &str = "docs/reference/variables.md";

const HEAD: &str = "# Environment variables

The variables that each function reads. `template.yaml` sets them; a function whose variables are missing or wrong does not start,
and its log names all of them.

This page is generated from `functions/*/src/config.rs`: `WRITE_DOCS=1 cargo test --test template variables`.
";

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
    breaker: "../../functions/breaker/src/config.rs"
}

fn page() -> String {
    let mut page = HEAD.to_owned();
    for (function, _) in FUNCTIONS {
        write!(
            page,
            "\n## {function}\n\n| variable | value | meaning |\n|---|---|---|\n"
        )
        .expect("written");
        for Variable {
            name,
            bounds,
            meaning,
            ..
        } in of(function)
        {
            writeln!(page, "| `{name}` | {bounds} | {meaning} |").expect("written");
        }
    }
    page
}

#[test]
fn the_reference_page_of_variables_is_current() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(PAGE);
    if std::env::var_os("WRITE_DOCS").is_some() {
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        std::fs::write(&path, page()).expect("written");
    }
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(
        found,
        page(),
        "{PAGE} is stale; run WRITE_DOCS=1 cargo test --test template variables"
    );
}
