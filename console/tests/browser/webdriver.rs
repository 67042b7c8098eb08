//! A headless browser that chromedriver controls over `WebDriver`. It can reach this machine only.

use std::os::unix::fs::MetadataExt as _;
use std::process::Stdio;

use anyhow::{Context as _, Result, bail, ensure};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use local::wait;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};

/// The driver of Debian's package `chromium-driver`.
const DRIVER: &str = "chromedriver";

/// Key of an element's id in answers ("`WebDriver`", section 11).
const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";

/// Keys ("`WebDriver`", section 15.4.2).
pub(crate) const TAB: char = '\u{E004}';
pub(crate) const ENTER: char = '\u{E007}';
pub(crate) const SPACE: char = ' ';

/// One browser.
pub(crate) struct Browser {
    session: String,
    _driver: Child,
}

impl Browser {
    /// Returns whether this machine has a browser.
    pub(crate) async fn is_there() -> bool {
        let version = Command::new(DRIVER)
            .arg("--version")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .await;
        version.is_ok_and(|status| status.success())
    }

    /// Starts a browser, which the caller must close.
    pub(crate) async fn start() -> Result<Self> {
        let mut driver = Command::new(DRIVER)
            .arg("--port=0")
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let mut lines = BufReader::new(driver.stdout.take().context("its output")?).lines();
        let port = loop {
            let line = lines.next_line().await?.context("chromedriver has ended")?;
            if let Some((_, port)) = line.split_once("started successfully on port ") {
                break port.trim_end_matches('.').to_owned();
            }
        };
        let mut arguments = vec![
            "--headless=new",
            "--window-size=1280,1000",
            "--disable-dev-shm-usage",
            "--no-first-run",
            "--disable-background-networking",
            "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
        ];
        // Chromium has no sandbox for root.
        if std::fs::metadata("/proc/self")?.uid() == 0 {
            arguments.push("--no-sandbox");
        }
        let options =
            json!({ "browserName": "chrome", "goog:chromeOptions": { "args": arguments } });
        let server = format!("http://127.0.0.1:{port}/session");
        let capabilities = json!({ "capabilities": { "alwaysMatch": options } });
        let answer = call(&server, &capabilities).await?;
        let id = answer["sessionId"].as_str().context("a session")?;
        Ok(Self {
            session: format!("{server}/{id}"),
            _driver: driver,
        })
    }

    pub(crate) async fn close(self) -> Result<()> {
        local::clients::http().delete(&self.session).send().await?;
        Ok(())
    }

    async fn post(&self, path: &str, body: Value) -> Result<Value> {
        call(&format!("{}/{path}", self.session), &body).await
    }

    async fn get(&self, path: &str) -> Result<Value> {
        let request = local::clients::http().get(format!("{}/{path}", self.session));
        read(request.send().await?).await
    }

    pub(crate) async fn open(&self, url: &str) -> Result<()> {
        self.post("url", json!({ "url": url })).await.map(drop)
    }

    async fn element(&self, selector: &str) -> Result<String> {
        let query = json!({ "using": "css selector", "value": selector });
        let found = self.post("element", query).await?;
        let id = found[ELEMENT].as_str().map(str::to_owned);
        id.with_context(|| format!("no {selector}"))
    }

    /// The text of an element, as a reader sees it.
    pub(crate) async fn text(&self, selector: &str) -> Result<String> {
        let element = self.element(selector).await?;
        let text = self.get(&format!("element/{element}/text")).await?;
        Ok(text.as_str().unwrap_or_default().to_owned())
    }

    pub(crate) async fn click(&self, selector: &str) -> Result<()> {
        let path = format!("element/{}/click", self.element(selector).await?);
        self.post(&path, json!({})).await.map(drop)
    }

    /// Types into a field.
    pub(crate) async fn write(&self, selector: &str, text: &str) -> Result<()> {
        let path = format!("element/{}/value", self.element(selector).await?);
        self.post(&path, json!({ "text": text })).await.map(drop)
    }

    /// Waits until an element contains the text. Pages may change meanwhile.
    pub(crate) async fn until(&self, selector: &str, text: &str) -> Result<String> {
        let what = format!("{selector} says {text:?}");
        let shown = wait::until(&what, || async {
            let shown = self.text(selector).await.ok();
            Ok(shown.filter(|shown| shown.contains(text)))
        });
        match shown.await {
            Ok(shown) => Ok(shown),
            Err(error) => bail!("{error}; the page says:\n{}", self.text("body").await?),
        }
    }

    /// Presses keys one after the other on the focused element.
    pub(crate) async fn press(&self, keys: impl IntoIterator<Item = char>) -> Result<()> {
        let actions: Vec<Value> = keys
            .into_iter()
            .flat_map(|key| ["keyDown", "keyUp"].map(|kind| json!({ "type": kind, "value": key })))
            .collect();
        let keyboard = json!({ "type": "key", "id": "keyboard", "actions": actions });
        let actions = json!({ "actions": [keyboard] });
        self.post("actions", actions).await.map(drop)
    }

    /// Presses Tab until the selected element has the focus, and checks that the focus is visible.
    pub(crate) async fn tab_to(&self, selector: &str) -> Result<()> {
        for _ in 0..100 {
            self.press([TAB]).await?;
            let script = "const it = document.activeElement; return it.matches(arguments[0]) \
                          && [it.matches(':focus-visible'), getComputedStyle(it).outlineStyle]";
            let body = json!({ "script": script, "args": [selector] });
            let focus = self.post("execute/sync", body).await?;
            if focus != json!(false) {
                let is_visible = focus == json!([true, "solid"]);
                ensure!(is_visible, "the focus on {selector} does not show: {focus}");
                return Ok(());
            }
        }
        bail!("no Tab leads to {selector}")
    }

    /// Switches scripts on or off, from the next page on.
    pub(crate) async fn run_scripts(&self, is_on: bool) -> Result<()> {
        let value = json!({ "value": !is_on });
        self.devtools("Emulation.setScriptExecutionDisabled", value)
            .await
    }

    /// Sets the preferred colours: `light` or `dark`.
    pub(crate) async fn prefer(&self, colours: &str) -> Result<()> {
        let feature = json!({ "name": "prefers-color-scheme", "value": colours });
        let features = json!({ "features": [feature] });
        self.devtools("Emulation.setEmulatedMedia", features).await
    }

    async fn devtools(&self, command: &str, parameters: Value) -> Result<()> {
        let body = json!({ "cmd": command, "params": parameters });
        self.post("goog/cdp/execute", body).await.map(drop)
    }

    /// Takes a screenshot as PNG.
    pub(crate) async fn picture(&self) -> Result<Vec<u8>> {
        let encoded = self.get("screenshot").await?;
        Ok(BASE64_STANDARD.decode(encoded.as_str().context("a picture")?)?)
    }
}

async fn call(url: &str, body: &Value) -> Result<Value> {
    let request = local::clients::http().post(url).body(body.to_string());
    read(request.send().await?).await
}

async fn read(answer: reqwest::Response) -> Result<Value> {
    let (status, text) = (answer.status(), answer.text().await?);
    let mut answer: Value = serde_json::from_str(&text).with_context(|| text.clone())?;
    let value = answer["value"].take();
    ensure!(status.is_success(), "{value}");
    Ok(value)
}
