//! `docs/design/threat-model.md` against the repository: what it names has to be there, and each threat has to be answered.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use yaml_rust2::YamlLoader;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: impl AsRef<Path>) -> String {
    let path = root().join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn page() -> String {
    read("docs/design/threat-model.md")
}

/// What stands between backticks.
fn names(page: &str) -> BTreeSet<String> {
    page.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

/// Every Rust file below these folders.
fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display())) {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// The names of the functions with a test attribute: of `#[test]`, also within `proptest!`, and of `#[tokio::test]`.
fn tests_in(source: &str) -> BTreeSet<String> {
    let mut tests = BTreeSet::new();
    let mut is_test = false;
    for line in source.lines().map(str::trim) {
        if line == "#[test]" || line.starts_with("#[tokio::test") {
            is_test = true;
        } else if let Some(function) = line.strip_prefix("async ").unwrap_or(line).strip_prefix("fn ") {
            let name = function.split(['(', '<']).next().unwrap_or_default();
            tests.extend(std::mem::take(&mut is_test).then(|| name.to_owned()));
        } else if !(line.is_empty() || line.starts_with("//") || line.starts_with("#[")) {
            is_test = false;
        }
    }
    tests
}

/// The names of all tests.
fn tests() -> BTreeSet<String> {
    let mut files = Vec::new();
    for folder in ["src", "console", "functions", "tools", "tests"] {
        sources(&root().join(folder), &mut files);
    }
    files.into_iter().flat_map(|file| tests_in(&read(file))).collect()
}

#[test]
fn only_what_has_the_attribute_is_a_test() {
    let source = "
        fn a_function_and_no_test() {}
        #[test]
        /// Says why.
        #[should_panic]
        fn a_test_of_its_own() {}
        #[test]
        const NOTHING: u8 = 0;
        fn a_function_after_something_else() {}
        #[tokio::test(flavor = \"multi_thread\")]
        async fn a_test_that_waits() {}
        async fn a_function_that_waits() {}";
    let names: Vec<_> = tests_in(source).into_iter().collect();
    assert_eq!(names, ["a_test_of_its_own", "a_test_that_waits"]);
}

#[test]
fn each_file_that_it_names_is_there() {
    let is_file = |name: &&String| {
        !name.contains([' ', '*'])
            && !name.starts_with('/')
            && (name.contains('/') || name.contains(".toml") || name.contains(".yaml"))
    };
    let page = page();
    let names = names(&page);
    let files: Vec<_> = names.iter().filter(is_file).collect();
    assert!(files.len() > 10, "{files:?}");
    for file in files {
        assert!(root().join(file).exists(), "{file}");
    }
}

#[test]
fn each_resource_and_parameter_that_it_names_is_in_the_template() {
    let template = YamlLoader::load_from_str(&read("template.yaml")).expect("YAML").remove(0);
    let known: BTreeSet<_> = ["Resources", "Parameters", "Outputs"]
        .iter()
        .flat_map(|part| template[*part].as_hash().expect("a part").keys())
        .filter_map(|name| name.as_str())
        .collect();
    let is_of_template = |name: &&String| {
        let letters = name.chars().all(|c| c.is_ascii_alphanumeric());
        letters && name.starts_with(|c: char| c.is_ascii_uppercase()) && !["Debug"].contains(&name.as_str())
    };
    let page = page();
    let names = names(&page);
    let mentioned: Vec<_> = names.iter().filter(is_of_template).collect();
    assert!(mentioned.len() > 20, "{mentioned:?}");
    for name in mentioned {
        assert!(known.contains(name.as_str()), "{name}");
    }
}

#[test]
fn each_test_that_it_names_is_there() {
    let is_test = |name: &&String| {
        name.matches('_').count() >= 3 && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
            || *name == "debug_shows_numbers_only"
    };
    let (page, tests) = (page(), tests());
    let names = names(&page);
    let mentioned: Vec<_> = names.iter().filter(is_test).collect();
    assert!(mentioned.len() > 40, "{mentioned:?}");
    let missing: Vec<_> = mentioned.into_iter().filter(|name| !tests.contains(*name)).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
fn each_threat_has_its_answer_its_test_and_what_remains() {
    let page = page();
    let threats: Vec<_> = page.split("\n### ").skip(1).collect();
    assert!(threats.len() > 15, "{}", threats.len());
    for threat in threats {
        let (title, text) = threat.split_once('\n').expect("a text");
        let text = text.split("\n## ").next().unwrap_or_default();
        for part in ["- **Answer:** ", "- **Test:** ", "- **Remains:** "] {
            let said = text.split(part).nth(1).unwrap_or_default();
            assert!(said.len() > 20, "{title}: {part}");
        }
    }
}

#[test]
fn the_readme_leads_to_it_and_to_how_to_report() {
    let readme = read("README.md");
    for link in ["(docs/design/threat-model.md)", "(SECURITY.md)"] {
        assert!(readme.contains(link), "{link}");
    }
    assert!(read("SECURITY.md").contains("(docs/design/threat-model.md)"));
}
