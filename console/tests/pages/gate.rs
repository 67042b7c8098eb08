//! Attacks: other web pages, other names of this machine, hostile content of events.

use reqwest::header::{CONTENT_TYPE, HOST};

use super::*;

/// All paths that accept forms.
const CHANGES: [&str; 7] = [
    "/leave",
    "/breaker",
    "/replay",
    "/discard",
    "/runs",
    "/runs/1/cancel",
    "/move-task/cancel",
];

#[tokio::test]
async fn a_link_signs_one_browser_in_once() -> Result<()> {
    let operator = Operator::outside(Relay::new()).await?;
    for path in [
        "/",
        "/dead-letters",
        "/events/any",
        "/style.css",
        "/nowhere",
    ] {
        let page = operator.get(path).await?;
        assert_eq!(page.status, StatusCode::FORBIDDEN, "{path}");
        page.says("Open the link that `cargo console` printed");
    }
    let link = (operator.link)();
    for wrong in [
        format!("{link}0"),
        link.replace("key=", "kee="),
        format!("{}/enter", operator.url),
    ] {
        assert_eq!(
            operator.client.get(wrong).send().await?.status(),
            StatusCode::FORBIDDEN
        );
    }
    for method in [Method::HEAD, Method::POST] {
        let answer = operator
            .client
            .request(method.clone(), &link)
            .send()
            .await?;
        assert_eq!(
            answer.status(),
            StatusCode::METHOD_NOT_ALLOWED,
            "{method} does not use the link up"
        );
    }
    let answer = operator.client.get(&link).send().await?;
    assert_eq!(answer.status(), StatusCode::OK, "no redirection");
    let cookie = answer.headers()[SET_COOKIE].to_str()?.to_owned();
    Page::of(answer)
        .await?
        .says("http-equiv=\"refresh\" content=\"0; url=/\"")
        .says("<a href=\"/\">");
    for attribute in ["; HttpOnly", "; SameSite=Strict", "; Path=/"] {
        assert!(cookie.contains(attribute), "{cookie}");
    }
    let again = Page::of(operator.client.get(&link).send().await?).await?;
    assert_eq!(again.status, StatusCode::FORBIDDEN);
    again.says("was already used");

    let name_and_value = cookie.split(';').next().unwrap_or_default();
    let enter = |cookie: String| {
        operator
            .client
            .get(&operator.url)
            .header(COOKIE, cookie)
            .send()
    };
    assert_eq!(
        enter(format!("theme=dark; {name_and_value}"))
            .await?
            .status(),
        StatusCode::OK
    );
    assert_eq!(
        enter(format!("{name_and_value}0")).await?.status(),
        StatusCode::FORBIDDEN
    );
    let void = (operator.link)();
    (operator.link)();
    assert_eq!(
        operator.client.get(void).send().await?.status(),
        StatusCode::FORBIDDEN,
        "a newer link invalidates it"
    );
    Ok(())
}

#[tokio::test]
async fn a_request_under_another_name_of_this_machine_is_refused() -> Result<()> {
    let operator = Operator::with(0).await?;
    let port = operator.url.rsplit(':').next().context("a port")?;
    for (host, status) in [
        (format!("127.0.0.1:{port}"), StatusCode::OK),
        (format!("localhost:{port}"), StatusCode::MISDIRECTED_REQUEST),
        ("127.0.0.1".to_owned(), StatusCode::MISDIRECTED_REQUEST),
        (
            format!("127.0.0.1:{port}0"),
            StatusCode::MISDIRECTED_REQUEST,
        ),
        (
            format!("rebound.example:{port}"),
            StatusCode::MISDIRECTED_REQUEST,
        ),
        (
            format!("localhost.rebound.example:{port}"),
            StatusCode::MISDIRECTED_REQUEST,
        ),
    ] {
        let answer = operator
            .request(Method::GET, "/")
            .header(HOST, &host)
            .send()
            .await?;
        assert_eq!(answer.status(), status, "{host}");
    }
    let link = operator
        .client
        .get((operator.link)())
        .header(HOST, format!("rebound.example:{port}"))
        .send()
        .await?;
    assert_eq!(link.status(), StatusCode::MISDIRECTED_REQUEST);
    Ok(())
}

#[tokio::test]
async fn another_web_page_is_refused_even_with_the_cookie() -> Result<()> {
    let operator = Operator::with(1).await?;
    for (site, status) in [
        ("none", StatusCode::OK),
        ("same-origin", StatusCode::OK),
        // Another port of this machine.
        ("same-site", StatusCode::FORBIDDEN),
        ("cross-site", StatusCode::FORBIDDEN),
    ] {
        let answer = operator
            .request(Method::GET, "/dead-letters")
            .header("sec-fetch-site", site)
            .send()
            .await?;
        assert_eq!(answer.status(), status, "{site}");
    }
    let twice = operator
        .request(Method::GET, "/dead-letters")
        .header("sec-fetch-site", "none");
    let twice = twice.header("sec-fetch-site", "same-origin").send().await?;
    assert_eq!(
        twice.status(),
        StatusCode::FORBIDDEN,
        "a repeated header is refused"
    );
    Ok(())
}

#[tokio::test]
async fn a_form_of_another_web_page_changes_nothing() -> Result<()> {
    let operator = Operator::with(1).await?;
    let (token, id) = (operator.token().await?, operator.ids().await?.remove(0));
    let all = format!("token={token}&eventId={id}&action=replay&why=because");
    let without_token = format!("eventId={id}&action=replay&why=because");
    let port = operator.url.rsplit(':').next().context("a port")?;
    let other_name = format!("http://localhost:{port}");
    let before = operator.relay.requests.lock().expect("a list").len();
    for path in CHANGES {
        for (what, origin, body) in [
            ("no origin", None, &all),
            ("an opaque origin", Some("null"), &all),
            ("another site", Some("https://evil.example"), &all),
            ("another port", Some("http://127.0.0.1:1"), &all),
            (
                "another name of this machine",
                Some(other_name.as_str()),
                &all,
            ),
            ("no token", Some(operator.url.as_str()), &without_token),
            (
                "a wrong token",
                Some(&operator.url),
                &all.replace("token=", "token=0"),
            ),
            (
                "an empty token",
                Some(&operator.url),
                &format!("token=&{without_token}"),
            ),
        ] {
            let mut request = operator.request(Method::POST, path).body(body.clone());
            request = request.header(CONTENT_TYPE, "application/x-www-form-urlencoded");
            if let Some(origin) = origin {
                request = request.header(ORIGIN, origin);
            }
            assert_eq!(
                request.send().await?.status(),
                StatusCode::FORBIDDEN,
                "{path}: {what}"
            );
        }
        for method in [Method::PUT, Method::DELETE, Method::PATCH, Method::OPTIONS] {
            let answer = operator
                .request(method.clone(), path)
                .header(ORIGIN, &operator.url)
                .send()
                .await?;
            assert_eq!(
                answer.status(),
                StatusCode::METHOD_NOT_ALLOWED,
                "{method} {path}"
            );
        }
    }
    let too_large = operator
        .send("/runs", &[("eventId", &"x".repeat(2 * 1024 * 1024))])
        .await?;
    assert_eq!(too_large.status(), StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!(
        operator.relay.requests.lock().expect("a list").len(),
        before,
        "the relay got no request"
    );
    Ok(())
}

#[tokio::test]
async fn every_answer_has_the_security_headers() -> Result<()> {
    let operator = Operator::with(1).await?;
    let id = operator.ids().await?.remove(0);
    let body = format!("/events/{id}/body");
    for (path, status) in [
        ("/", 200),
        ("/live.js", 200),
        ("/style.css", 200),
        (&body, 200),
        ("/nowhere", 404),
    ] {
        let answer = operator.request(Method::GET, path).send().await?;
        assert_eq!(answer.status(), status, "{path}");
        let header = |name: &str| {
            answer
                .headers()
                .get(name)
                .and_then(|value| value.to_str().ok())
                .unwrap_or_default()
        };
        let policy = header("content-security-policy");
        for part in [
            "default-src 'none'",
            "script-src 'self'",
            "frame-ancestors 'none'",
            "form-action 'self'",
            "base-uri 'none'",
        ] {
            assert!(policy.contains(part), "{path}: {policy}");
        }
        assert!(!policy.contains("unsafe"), "{policy}");
        for (name, value) in [
            ("x-frame-options", "DENY"),
            ("x-content-type-options", "nosniff"),
            ("cache-control", "no-store"),
            ("referrer-policy", "same-origin"),
            ("cross-origin-opener-policy", "same-origin"),
            ("cross-origin-resource-policy", "same-origin"),
        ] {
            assert_eq!(header(name), value, "{path}: {name}");
        }
        assert_eq!(header("access-control-allow-origin"), "", "{path}");
    }
    let refused = operator.client.get(&operator.url).send().await?;
    assert_eq!(
        refused.headers()["x-frame-options"],
        "DENY",
        "also on refused requests"
    );
    for page in [
        operator.get("/").await?,
        operator.get("/dead-letters").await?,
        operator.get(&format!("/events/{id}")).await?,
    ] {
        for inline in ["<style", "style=\"", "onclick", "javascript:", "<script>"] {
            page.says_not(inline);
        }
    }
    Ok(())
}

#[tokio::test]
async fn the_button_ends_the_session() -> Result<()> {
    let operator = Operator::with(0).await?;
    operator
        .get("/")
        .await?
        .says("action=\"/leave\"")
        .says("End session");
    let answer = operator.send("/leave", &[]).await?;
    assert!(answer.headers()[SET_COOKIE].to_str()?.contains("Max-Age=0"));
    Page::of(answer).await?.says("Session ended");
    assert_eq!(operator.get("/").await?.status, StatusCode::FORBIDDEN);
    Ok(())
}

#[tokio::test]
async fn bidirectional_controls_are_shown_as_escapes() -> Result<()> {
    let turning = "pay \u{202e}001\u{202c} to\u{2066}\u{2069}\u{200f}\u{61c}";
    let escaped = "pay \\u202e001\\u202c to\\u2066\\u2069\\u200f\\u061c";
    let relay = Relay::new();
    let body =
        json!({ "webhookId": turning, "payload": turning, "timestamp": "2026-01-15T12:00:00Z" })
            .to_string();
    relay.send_to_dead_letters([body.clone()]).await?;
    let operator = Operator::of(relay).await?;
    let id = operator.ids().await?.remove(0);
    operator
        .get(&format!("/events/{id}"))
        .await?
        .says(escaped)
        .says_not(turning);
    operator
        .get("/dead-letters")
        .await?
        .says(escaped)
        .says_not("\u{202e}");
    let file = operator
        .request(Method::GET, &format!("/events/{id}/body"))
        .send()
        .await?;
    assert_eq!(file.text().await?, body, "byte for byte");
    // Fields of forms keep the characters, so that the filter matches.
    let query = form_urlencoded::byte_serialize(turning.as_bytes()).collect::<String>();
    operator
        .get(&format!("/dead-letters?webhookId={query}"))
        .await?
        .says("1 on this page");
    Ok(())
}

#[tokio::test]
async fn hostile_content_is_shown_as_text() -> Result<()> {
    let attack = r#"</pre><script>alert(1)</script><img src=x onerror="alert(2)">"#;
    let relay = Relay::new();
    let hostile = json!({ "webhookId": attack, "webhookName": attack, "conversationId": attack, "payload": { attack: attack }, "timestamp": attack });
    relay
        .send_to_dead_letters([hostile.to_string(), attack.to_owned()])
        .await?;
    let operator = Operator::of(relay).await?;
    let ids = operator.ids().await?;
    assert_eq!(ids.len(), 2);
    let mut pages = vec![
        operator.get("/").await?,
        operator.get("/dead-letters").await?,
    ];
    for id in &ids {
        pages.push(operator.get(&format!("/events/{id}")).await?);
        pages.push(operator.post("/replay", &[("eventId", id)]).await?);
        let file = operator
            .request(Method::GET, &format!("/events/{id}/body"))
            .send()
            .await?;
        assert_eq!(file.headers()["content-type"], "application/octet-stream");
        assert!(
            file.headers()["content-disposition"]
                .to_str()?
                .starts_with("attachment")
        );
        assert!(file.text().await?.contains(&attack[..10]), "byte for byte");
    }
    let query = form_urlencoded::byte_serialize(attack.as_bytes()).collect::<String>();
    pages.push(
        operator
            .get(&format!(
                "/dead-letters?webhookId={query}&reason={query}&statusCode={query}&next={query}"
            ))
            .await?,
    );
    pages.push(operator.get(&format!("/events?id={query}")).await?);
    pages.push(operator.post("/runs", &[("action", attack)]).await?);
    let run = operator
        .start(&[("action", "replay"), ("eventId", attack), ("why", attack)])
        .await?;
    pages.push(operator.until(&run, "stopped by an error").await?);
    pages.push(operator.get("/runs").await?);
    for page in &pages {
        page.says_not("<script>").says_not("<img");
    }
    assert!(
        pages
            .iter()
            .filter(|page| page.text.contains("&lt;script&gt;"))
            .count()
            > 4
    );
    Ok(())
}
