//! `openapi.yaml` against the code.

use genesys_relay::domain::failure::ReasonKind;
use yaml_rust2::{Yaml, YamlLoader};

use super::*;

fn document() -> Yaml {
    let path = format!("{}/../../openapi.yaml", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    YamlLoader::load_from_str(&text).expect("YAML").remove(0)
}

fn texts(yaml: &Yaml) -> Vec<&str> {
    yaml.as_vec()
        .unwrap_or_else(|| panic!("no list: {yaml:?}"))
        .iter()
        .map(|text| text.as_str().expect("a text"))
        .collect()
}

fn keys(yaml: &Yaml) -> Vec<&str> {
    let hash = yaml
        .as_hash()
        .unwrap_or_else(|| panic!("no object: {yaml:?}"));
    hash.keys()
        .map(|name| name.as_str().expect("a name"))
        .collect()
}

#[tokio::test(start_paused = true)]
async fn the_document_has_the_parameters_of_the_list_with_their_bounds() {
    let function = function();
    let document = document();
    let mut names = Vec::new();
    for parameter in document["paths"]["/dlq"]["get"]["parameters"]
        .as_vec()
        .expect("parameters")
    {
        let name = parameter["name"].as_str().expect("a name");
        names.push(name);
        let schema = &parameter["schema"];
        let status = async |value: &str| {
            send(&function, event("GET", "/dlq", &format!("{name}={value}")))
                .await
                .status
        };
        let reference = schema["$ref"]
            .as_str()
            .and_then(|path| path.rsplit('/').next())
            .unwrap_or_default();
        let words = &document["components"]["schemas"][reference]["enum"];
        for word in words.as_vec().into_iter().flatten() {
            let word = word.as_str().expect("a text");
            assert_eq!(status(word).await, 200, "{name}={word}");
        }
        if schema["type"].as_str() == Some("integer") {
            let bound = |bound: &str| {
                schema[bound]
                    .as_i64()
                    .unwrap_or_else(|| panic!("{name} has no {bound}"))
            };
            for (value, expected) in [
                (bound("minimum") - 1, 400),
                (bound("minimum"), 200),
                (bound("maximum"), 200),
                (bound("maximum") + 1, 400),
            ] {
                assert_eq!(status(&value.to_string()).await, expected, "{name}={value}");
            }
        }
    }
    // The parser lists the fields that it knows when it meets one that it does not.
    let answer = send(&function, event("GET", "/dlq", "unknown=1")).await;
    let known: Vec<_> = answer.body["detail"]
        .as_str()
        .expect("a text")
        .split('`')
        .skip(3)
        .step_by(2)
        // Over HTTP the caller is known.
        .filter(|name| *name != "by")
        .collect();
    assert_eq!(known, names);
}

#[tokio::test(start_paused = true)]
async fn the_document_knows_every_word_and_every_field() {
    let document = document();
    let schema = |name: &str| document["components"]["schemas"][name].clone();
    let sources =
        genesys_relay::domain::event::Source::ALL.map(genesys_relay::domain::event::Source::as_str);
    assert_eq!(texts(&schema("Source")["enum"]), sources);
    for reason in texts(&schema("Reason")["enum"]) {
        serde_json::from_value::<ReasonKind>(reason.into())
            .unwrap_or_else(|error| panic!("{reason}: {error}"));
    }
    let unknown = serde_json::from_value::<ReasonKind>("boredom".into())
        .expect_err("none")
        .to_string();
    let known: Vec<_> = unknown.split('`').skip(3).step_by(2).collect();
    assert_eq!(texts(&schema("Reason")["enum"]), known);

    let function = function();
    send_to_dead_letters(&function, [dead_letter(1)]).await;
    let list = send(&function, event("GET", "/dlq", "")).await.body;
    let shown = send(
        &function,
        event("GET", &format!("/dlq/{}", id_of(&dead_letter(1))), ""),
    )
    .await
    .body;
    let conversation = send(&function, event("GET", "/conversations/a-chat", ""))
        .await
        .body;
    for (name, value) in [
        ("List", &list),
        ("DeadLetter", &list["items"][0]),
        ("Event", &shown),
        ("Conversation", &conversation),
    ] {
        let schema = schema(name);
        let given: Vec<&str> = value
            .as_object()
            .expect("an object")
            .keys()
            .map(String::as_str)
            .collect();
        let described = keys(&schema["properties"]);
        assert!(
            given.iter().all(|field| described.contains(field)),
            "{name}: {given:?}"
        );
        assert!(
            texts(&schema["required"])
                .iter()
                .all(|field| given.contains(field)),
            "{name}: {given:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn the_document_has_every_path_and_its_answers() {
    let document = document();
    assert_eq!(
        document["info"]["version"].as_str(),
        Some(env!("CARGO_PKG_VERSION"))
    );
    let paths = &document["paths"];
    assert_eq!(
        keys(paths),
        [
            "/webhook/genesys",
            "/dlq",
            "/dlq/{eventId}",
            "/dlq/{eventId}/retry",
            "/conversations/{id}"
        ]
    );
    for path in keys(paths).into_iter().skip(1) {
        for method in ["get", "post", "put", "delete", "patch"] {
            let answer = send(
                &function(),
                event(
                    &method.to_uppercase(),
                    &path
                        .replace("{eventId}", "an-event")
                        .replace("{id}", "a-conversation"),
                    "",
                ),
            )
            .await;
            let described = !paths[path][method].is_badvalue();
            assert_eq!(
                answer.status != 405,
                described,
                "{method} {path}: {answer:?}"
            );
        }
    }
}
