//! A URL that leaks neither events nor credentials: https, or http to this machine.

use std::str::FromStr;

use reqwest::Url;

/// A URL that nothing can be sent to.
#[derive(Debug, thiserror::Error)]
pub enum InvalidUrl {
    /// It cannot be parsed.
    #[error("it is not a URL")]
    Syntax,
    /// The data would be sent unencrypted.
    #[error("it must be https (http is for 127.0.0.1, [::1] and localhost only)")]
    NotHttps,
    /// Credentials do not belong in an environment variable.
    #[error("it must not hold a user name or password; credentials belong in the stack's secret")]
    Credentials,
}

/// An address to send data to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpsUrl(Url);

impl HttpsUrl {
    pub fn into_url(self) -> Url {
        self.0
    }

    pub fn as_url(&self) -> &Url {
        &self.0
    }
}

impl FromStr for HttpsUrl {
    type Err = InvalidUrl;

    fn from_str(text: &str) -> Result<Self, InvalidUrl> {
        let url = Url::parse(text).map_err(|_| InvalidUrl::Syntax)?;
        let is_loopback = matches!(url.host_str(), Some("127.0.0.1" | "[::1]" | "localhost"));
        match url.scheme() {
            "https" => {}
            "http" if is_loopback => {}
            _ => return Err(InvalidUrl::NotHttps),
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(InvalidUrl::Credentials);
        }
        Ok(Self(url))
    }
}

/// A base URL that paths are appended to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BaseUrl(String);

/// A URL that no path can be appended to.
#[derive(Debug, thiserror::Error)]
pub enum InvalidBaseUrl {
    /// Nothing can be sent to it.
    #[error(transparent)]
    Url(#[from] InvalidUrl),
    /// A path would become a part of the query or the fragment.
    #[error("it must have no query and no fragment")]
    NoBase,
}

impl From<BaseUrl> for String {
    fn from(url: BaseUrl) -> Self {
        url.0
    }
}

impl FromStr for BaseUrl {
    type Err = InvalidBaseUrl;

    fn from_str(text: &str) -> Result<Self, InvalidBaseUrl> {
        let url = text.parse::<HttpsUrl>()?.into_url();
        let is_base = url.query().is_none() && url.fragment().is_none();
        if is_base {
            Ok(Self(url.into()))
        } else {
            Err(InvalidBaseUrl::NoBase)
        }
    }
}

/// A URL without its query, where some put their keys, and without a user's name or a fragment.
pub(crate) fn without_secrets(mut url: Url) -> String {
    url.set_query(None);
    url.set_fragment(None);
    // Fails for a URL that can hold neither.
    let _ = url.set_username("").and_then(|()| url.set_password(None));
    url.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_that_would_leak_is_refused() {
        for url in [
            "https://example.com/x",
            "http://127.0.0.1:8080/",
            "http://localhost/",
            "http://[::1]:1/",
        ] {
            assert!(url.parse::<HttpsUrl>().is_ok(), "{url}");
        }
        for url in [
            "http://example.com/",
            "ftp://example.com/",
            "file:///proc/self/environ",
            "https://a:b@example.com/",
            "https://a@example.com/",
            "http://127.0.0.1.nip.io/",
            "http://localhost.example.com/",
            "http://127.0.0.1@example.com/",
            "http://example.com#@127.0.0.1/",
            "http://169.254.169.254/latest/meta-data/",
            "http://[::ffff:169.254.169.254]/",
            "http://10.0.0.1/",
        ] {
            assert!(url.parse::<HttpsUrl>().is_err(), "{url}");
        }
    }
}
