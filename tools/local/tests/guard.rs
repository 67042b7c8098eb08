//! The local AWS opens to its own keys alone: neither to a web page, nor to another user of the
//! machine.

use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use anyhow::{Context as _, Result};
use local::{
    api, clients,
    clients::Keys,
    emulator::Emulator,
    genesys::Webhook,
    stack::{Function, Stack, StackOptions},
    target::{Behaviour, Target},
    workspace::Workspace,
};
use serde_json::json;
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;

/// Status of a call that lists functions. A caller that may do so may also create and invoke them.
async fn status_of(
    endpoint: &str,
    keys: &Keys,
    header: Option<(&'static str, &'static str)>,
) -> Result<u16> {
    let call = aws_sdk_lambda::Client::new(&clients::config(endpoint, keys).await).list_functions();
    let call = call.customize().mutate_request(move |request| {
        if let Some((name, value)) = header {
            request.headers_mut().insert(name, value);
        }
    });
    match call.send().await {
        Ok(_) => Ok(200),
        Err(error) => Ok(error.raw_response().context("an answer")?.status().as_u16()),
    }
}

#[tokio::test]
async fn no_page_and_no_other_key_gets_in() -> Result<()> {
    let emulator = Emulator::start(&Workspace::locate().await?, None, &[]).await?;
    let (endpoint, keys) = (emulator.endpoint(), emulator.keys());
    assert_eq!(status_of(&endpoint, keys, None).await?, 200);

    // Even signed, as no page could.
    for header in [
        ("origin", "https://page.example"),
        ("origin", "null"),
        ("sec-fetch-site", "cross-site"),
        ("sec-fetch-site", "same-site"),
        ("host", "rebound.example"),
        ("host", "127.0.0.1.rebound.example:80"),
    ] {
        assert_eq!(
            status_of(&endpoint, keys, Some(header)).await?,
            403,
            "{header:?}"
        );
    }

    let pair = |id: &str, secret: &str| Keys {
        id: id.to_owned(),
        secret: secret.to_owned(),
    };
    for other in [
        // The id of a key in a list does not give its secret.
        pair(&keys.id, &Keys::random().secret),
        // The emulator's root pair, and what it takes for it, whatever the signature.
        pair("test", "test"),
        pair("test", "wrong"),
        pair("000000000000", "test"),
        Keys::random(),
    ] {
        assert_eq!(status_of(&endpoint, &other, None).await?, 403, "{other:?}");
    }

    for (method, path, header) in [
        ("GET", "/2015-03-31/functions/", None),
        (
            "GET",
            "/2015-03-31/functions/",
            Some(("authorization", "nonsense")),
        ),
        (
            "GET",
            "/2015-03-31/functions/?X-Amz-Credential=test/20260101/us-east-1/lambda/aws4_request",
            None,
        ),
        ("POST", "/?Action=ListUsers&Version=2010-05-08", None),
        ("OPTIONS", "/2015-03-31/functions/", None),
        ("POST", "/_ministack/reset", None),
        ("GET", "/_ministack/sqs/messages", None),
        ("GET", "/_localstack/health", None),
        ("GET", "/latest/meta-data/iam/security-credentials/", None),
        (
            "GET",
            "/_ministack/health",
            Some(("host", "rebound.example")),
        ),
    ] {
        let headers = header.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let answer = api::call(
            method,
            &format!("{endpoint}{path}"),
            headers.into_iter().collect(),
        )
        .await?;
        assert_eq!(answer.status, 403, "{method} {path}");
        assert_eq!(
            answer.header("access-control-allow-origin"),
            "",
            "{method} {path}"
        );
    }
    let folder = Workspace::locate().await?.local();
    assert_eq!(
        std::fs::metadata(folder)?.permissions().mode() & 0o777,
        0o700
    );
    let health = api::call("GET", &format!("{endpoint}/_ministack/health"), Vec::new()).await?;
    assert_eq!(health.status, 200);
    Ok(())
}

/// The signature is verified with the whole body, so that anybody could have it read.
#[tokio::test]
async fn a_body_that_no_client_of_ours_sends_is_refused_before_it_is_read() -> Result<()> {
    const MIB: usize = 1024 * 1024;
    let emulator = Emulator::start(&Workspace::locate().await?, None, &[]).await?;
    let address = emulator.endpoint().replace("http://", "");
    let start = |headers: &str| {
        format!("PUT /a-bucket/key HTTP/1.1\r\nhost: {address}\r\n{headers}\r\n\r\n")
    };

    let mut connection = TcpStream::connect(&address).await?;
    connection
        .write_all(start(&format!("content-length: {}", 128 * MIB + 1)).as_bytes())
        .await?;
    assert!(
        status_line(&mut connection)
            .await?
            .starts_with("HTTP/1.1 413"),
        "its length is enough"
    );

    let (mut answer, mut body) = TcpStream::connect(&address).await?.into_split();
    body.write_all(start("transfer-encoding: chunked").as_bytes())
        .await?;
    let chunk = [
        format!("{MIB:x}\r\n").into_bytes(),
        vec![b'x'; MIB],
        b"\r\n".to_vec(),
    ]
    .concat();
    // It ends when the server closes the connection, or with the test.
    let endless = tokio::spawn(async move { while body.write_all(&chunk).await.is_ok() {} });
    assert!(
        status_line(&mut answer).await?.starts_with("HTTP/1.1 413"),
        "a body of no known length"
    );
    endless.abort();
    Ok(())
}

async fn status_line(connection: &mut (impl AsyncRead + Unpin)) -> Result<String> {
    let mut line = String::new();
    let mut connection = BufReader::new(connection);
    tokio::time::timeout(Duration::from_secs(30), connection.read_line(&mut line))
        .await
        .context("no answer")??;
    Ok(line)
}

/// As on AWS: the webhook is open, and the dead letters are for signed calls.
#[tokio::test]
async fn the_http_api_stays_open_to_programs() -> Result<()> {
    let target = Target::start(Behaviour::Fine).await?;
    let stack = Stack::start(StackOptions::new(target.url())).await?;
    let webhook = Webhook::with_shared_secret(r#"{"text":"Hi"}"#);
    assert_eq!(webhook.send(&stack.webhook_url()?).await?.0, 200);
    let of_a_page = clients::http()
        .post(stack.webhook_url()?)
        .header("origin", "https://page.example");
    assert_eq!(of_a_page.send().await?.status(), 403);

    let list = stack.dead_letter_api_url()?;
    for authorization in [
        "nonsense",
        "Bearer token",
        "AWS4-HMAC-SHA256 Credential=test/x/us-east-1/execute-api/aws4_request",
    ] {
        let headers = vec![("authorization".to_owned(), authorization.to_owned())];
        assert_eq!(
            api::call("GET", &list, headers).await?.status,
            403,
            "{authorization}"
        );
    }
    for other in [
        Keys::unchecked(),
        Keys {
            secret: Keys::random().secret,
            ..stack.keys().clone()
        },
    ] {
        assert_eq!(
            api::call_signed(&other, "GET", &list).await?.status,
            403,
            "{other:?}"
        );
    }
    assert_eq!(
        api::call_signed(stack.keys(), "GET", &list).await?.status,
        200
    );
    Ok(())
}

/// Another user of the machine knows the names of functions and roles, and sees which ports are
/// open.
#[tokio::test]
async fn no_other_process_gets_a_functions_session_or_invocations() -> Result<()> {
    let target = Target::start(Behaviour::Fine).await?;
    let stack = Stack::start(StackOptions::new(target.url())).await?;
    stack
        .invoke(Function::Replay, &json!({ "action": "status" }))
        .await??;
    let pid = *stack
        .pids_of(Function::Replay)?
        .first()
        .context("a process")?;
    let environment = String::from_utf8(std::fs::read(format!("/proc/{pid}/environ"))?)?;
    let variable = |name: &str| {
        let mut values = environment
            .split('\0')
            .filter_map(|variable| variable.strip_prefix(name)?.strip_prefix('='));
        values.next().with_context(|| format!("no {name}"))
    };

    let runtime_api = variable("AWS_LAMBDA_RUNTIME_API")?.parse::<reqwest::Url>()?;
    for path in [
        "/2018-06-01/runtime/invocation/next",
        "/guessed/2018-06-01/runtime/invocation/next",
    ] {
        assert_eq!(
            clients::http()
                .get(runtime_api.join(path)?)
                .send()
                .await?
                .status(),
            403,
            "{path}"
        );
    }

    let configuration = stack
        .lambda()
        .get_function_configuration()
        .function_name(stack.function_name(Function::Replay)?);
    let configuration = configuration.send().await?;
    let names = format!(
        "{}:{}",
        configuration.function_arn().unwrap_or_default(),
        configuration.role().unwrap_or_default()
    );
    let hex = |text: String| {
        Sha256::digest(text)
            .iter()
            .flat_map(|byte| [byte >> 4, byte & 15])
            .filter_map(|half| char::from_digit(half.into(), 16))
            .collect::<String>()
    };
    let derived = hex(names);
    assert_ne!(
        variable("AWS_ACCESS_KEY_ID")?,
        format!("ASIA{}", derived[..16].to_uppercase())
    );
    assert_ne!(
        variable("AWS_SECRET_ACCESS_KEY")?,
        hex(format!("secret:{derived}"))
    );
    // The developer's pair is not for functions.
    assert!(!environment.contains(&stack.keys().secret));
    Ok(())
}
