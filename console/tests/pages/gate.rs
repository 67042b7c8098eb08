//! Attacks: other web pages, other names of this machine, hostile content of events.

use reqwest::header::HOST;

use super::*;

/// All paths that accept forms.
const CHANGES: [&str; 9] = [
    "/leave",
    "/breaker",
    "/replay",
    "/discard",
    "/runs",
    "/runs/1/cancel",
    "/runs/1/go-on",
    "/resend",
    "/move-task/cancel",
];

/// Header by which browsers name the page that sends a request.
const SITE: &str = "sec-fetch-site";

#[tokio::test]
async fn a_link_signs_one_browser_in_once() -> Result<()> {
    let operator = Operator::outside(Relay::new()).await?;
    let client = &operator.client;
    for path in [
        "/",
        "/dead-letters",
        "/events/any",
        "/style.css",
        "/nowhere",
    ] {
        let page = operator.get(path).await?;
        assert_eq!(page.status, StatusCode::FORBIDDEN, "{path}");
        page.says("Open the link that `cargo console` printed … after 2 hours without use");
    }
    let link = (operator.link)();
    let bare = format!("{}/enter", operator.url);
    for wrong in [format!("{link}0"), link.replace("key=", "kee="), bare] {
        let status = client.get(wrong).send().await?.status();
        assert_eq!(status, StatusCode::FORBIDDEN);
    }
    for method in [Method::HEAD, Method::POST] {
        let status = client.request(method, &link).send().await?.status();
        assert_eq!(status, 405, "the link is not used up");
    }
    let answer = client.get(&link).send().await?;
    assert_eq!(answer.status(), StatusCode::OK, "no redirection");
    let cookie = answer.headers()[SET_COOKIE].to_str()?;
    for attribute in ["; HttpOnly", "; SameSite=Strict", "; Path=/"] {
        assert!(cookie.contains(attribute), "{cookie}");
    }
    let cookie = cookie_of(&answer)?;
    let page = Page::of(answer).await?;
    page.says("http-equiv=\"refresh\" content=\"0; url=/\" … <a href=\"/\">");
    let again = Page::of(client.get(&link).send().await?).await?;
    assert_eq!(again.status, StatusCode::FORBIDDEN);
    again.says("was already used");

    for (cookie, status) in [
        (format!("theme=dark; {cookie}"), StatusCode::OK),
        (format!("{cookie}0"), StatusCode::FORBIDDEN),
    ] {
        let request = client.get(&operator.url).header(COOKIE, cookie);
        assert_eq!(request.send().await?.status(), status);
    }
    let void = (operator.link)();
    (operator.link)();
    let status = client.get(void).send().await?.status();
    assert_eq!(status, StatusCode::FORBIDDEN, "a newer link invalidates it");
    Ok(())
}

#[tokio::test]
async fn a_request_under_another_name_of_this_machine_is_refused() -> Result<()> {
    let operator = Operator::with(0).await?;
    let port = operator.url.rsplit(':').next().context("a port")?;
    let own = format!("127.0.0.1:{port}");
    let request = operator.request(Method::GET, "/").header(HOST, &own);
    assert_eq!(request.send().await?.status(), StatusCode::OK);
    for host in [
        format!("localhost:{port}"),
        "127.0.0.1".to_owned(),
        format!("{own}0"),
        format!("rebound.example:{port}"),
        format!("localhost.rebound.example:{port}"),
    ] {
        let page = operator.request(Method::GET, "/");
        for request in [page, operator.client.get((operator.link)())] {
            let status = request.header(HOST, &host).send().await?.status();
            assert_eq!(status, StatusCode::MISDIRECTED_REQUEST, "{host}");
        }
    }
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
        let request = operator.request(Method::GET, "/").header(SITE, site);
        assert_eq!(request.send().await?.status(), status, "{site}");
    }
    let request = operator.request(Method::GET, "/").header(SITE, "none");
    let twice = request.header(SITE, "same-origin").send().await?.status();
    assert_eq!(twice, StatusCode::FORBIDDEN, "a repeated header is refused");
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
        let url = operator.url.as_str();
        for (origin, body) in [
            (None, &all),
            (Some("null"), &all),
            (Some("https://evil.example"), &all),
            (Some("http://127.0.0.1:1"), &all),
            (Some(other_name.as_str()), &all),
            (Some(url), &without_token),
            (Some(url), &all.replace("token=", "token=0")),
            (Some(url), &format!("token=&{without_token}")),
        ] {
            let mut request = operator.request(Method::POST, path).body(body.clone());
            request = request.header(CONTENT_TYPE, "application/x-www-form-urlencoded");
            if let Some(origin) = origin {
                request = request.header(ORIGIN, origin);
            }
            let status = request.send().await?.status();
            assert_eq!(status, StatusCode::FORBIDDEN, "{path}: {origin:?} {body}");
        }
        for method in [Method::PUT, Method::DELETE, Method::PATCH, Method::OPTIONS] {
            let request = operator.request(method.clone(), path).header(ORIGIN, url);
            let status = request.send().await?.status();
            assert_eq!(status, StatusCode::METHOD_NOT_ALLOWED, "{method} {path}");
        }
    }
    let too_large = format!("eventId={}", "x".repeat(2 * 1024 * 1024));
    let status = operator.send("/runs", &too_large).await?.status();
    assert_eq!(status, StatusCode::PAYLOAD_TOO_LARGE);
    let requests = operator.relay.requests.lock().expect("a list").len();
    assert_eq!(requests, before, "the relay got no request");
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
            let value = answer.headers().get(name);
            value.map_or("", |value| value.to_str().expect("text"))
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
    assert_eq!(refused.status(), StatusCode::FORBIDDEN);
    assert_eq!(refused.headers()["x-frame-options"], "DENY");
    for path in ["/", "/dead-letters", &format!("/events/{id}")] {
        let page = operator.get(path).await?;
        for inline in ["<style", "style=\"", "onclick", "javascript:", "<script>"] {
            page.says_not(inline);
        }
    }
    Ok(())
}

#[tokio::test]
async fn the_button_ends_the_session() -> Result<()> {
    let operator = Operator::with(0).await?;
    let page = operator.get("/").await?;
    page.says("action=\"/leave\" … End session");
    let answer = operator.send("/leave", "").await?;
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
    let page = operator.get(&format!("/events/{id}")).await?;
    page.says(escaped).says_not(turning);
    let page = operator.get("/dead-letters").await?;
    page.says(escaped).says_not("\u{202e}");
    let file = operator.get(&format!("/events/{id}/body")).await?;
    assert_eq!(file.text, body, "byte for byte");
    // Fields of forms keep the characters, so that the filter matches.
    let path = format!("/dead-letters?webhookId={}", encoded(turning));
    let list = operator.get(&path).await?;
    list.says("1 on this page");
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
    let mut pages = Vec::new();
    for id in &ids {
        pages.push(operator.get(&format!("/events/{id}")).await?);
        pages.push(operator.post("/replay", &format!("eventId={id}")).await?);
        let path = format!("/events/{id}/body");
        let file = operator.request(Method::GET, &path).send().await?;
        assert_eq!(file.headers()["content-type"], "application/octet-stream");
        let disposition = file.headers()["content-disposition"].to_str()?;
        assert!(disposition.starts_with("attachment"), "{disposition}");
        assert!(file.text().await?.contains(&attack[..10]), "byte for byte");
    }
    let query = encoded(attack);
    for path in [
        "/".to_owned(),
        "/dead-letters".to_owned(),
        format!("/dead-letters?webhookId={query}"),
        format!("/dead-letters?next={query}"),
        format!("/dead-letters?reason={query}"),
        format!("/dead-letters?statusCode={query}"),
        format!("/find?id={query}"),
        format!("/conversations?id={query}"),
        format!("/resend?webhookId={query}&conversationId={query}"),
    ] {
        pages.push(operator.get(&path).await?);
    }
    for fields in [
        format!("action={query}"),
        format!("action=replay&eventId={query}"),
    ] {
        pages.push(operator.post("/runs", &fields).await?);
    }
    let fields = format!("action=restore&key={query}&why={query}");
    let run = operator.start(&fields).await?;
    pages.push(operator.until(&run, "stopped by an error").await?);
    pages.push(operator.get("/runs").await?);
    for page in &pages {
        page.says_not("<script>").says_not("<img");
    }
    pages.retain(|page| page.text.contains("&lt;script&gt;"));
    assert!(pages.len() > 8);
    Ok(())
}
