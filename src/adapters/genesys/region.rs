//! Regions of Genesys Cloud.

use std::fmt;
use std::str::FromStr;

/// A region of AWS in which Genesys Cloud runs, and its domain there (Platform SDK,
/// `PureCloudRegionHosts`).
const DOMAINS: [(&str, &str); 18] = [
    ("us-east-1", "mypurecloud.com"),
    ("us-east-2", "use2.us-gov-pure.cloud"),
    ("us-west-2", "usw2.pure.cloud"),
    ("ca-central-1", "cac1.pure.cloud"),
    ("sa-east-1", "sae1.pure.cloud"),
    ("mx-central-1", "mxc1.pure.cloud"),
    ("eu-west-1", "mypurecloud.ie"),
    ("eu-west-2", "euw2.pure.cloud"),
    ("eu-central-1", "mypurecloud.de"),
    ("eu-central-2", "euc2.pure.cloud"),
    ("eusc-de-east-1", "edee1.eusc-pure.cloud"),
    ("me-central-1", "mec1.pure.cloud"),
    ("ap-southeast-1", "apse1.pure.cloud"),
    ("ap-southeast-2", "mypurecloud.com.au"),
    ("ap-northeast-1", "mypurecloud.jp"),
    ("ap-northeast-2", "apne2.pure.cloud"),
    ("ap-northeast-3", "apne3.pure.cloud"),
    ("ap-south-1", "aps1.pure.cloud"),
];

/// A region of Genesys Cloud, by the name that AWS has for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Region {
    name: &'static str,
    domain: &'static str,
}

impl Region {
    pub fn all() -> impl Iterator<Item = Self> {
        DOMAINS
            .into_iter()
            .map(|(name, domain)| Self { name, domain })
    }

    /// Base URL of the API.
    pub fn api_url(self) -> String {
        format!("https://api.{}", self.domain)
    }

    /// Base URL of the sign-in.
    pub fn login_url(self) -> String {
        format!("https://login.{}", self.domain)
    }
}

impl fmt::Display for Region {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name)
    }
}

/// A text that names no region.
#[derive(Debug, thiserror::Error)]
#[error("Genesys Cloud has no such region; it is one of {}", Region::all().map(|region| region.name).collect::<Vec<_>>().join(", "))]
pub struct UnknownRegion;

impl FromStr for Region {
    type Err = UnknownRegion;

    fn from_str(text: &str) -> Result<Self, UnknownRegion> {
        Self::all()
            .find(|region| region.name == text)
            .ok_or(UnknownRegion)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_region_is_a_name_of_aws_and_not_a_host() {
        let region: Region = "us-east-1".parse().expect("a region");
        assert_eq!(region.api_url(), "https://api.mypurecloud.com");
        assert_eq!(region.login_url(), "https://login.mypurecloud.com");
        for wrong in ["mypurecloud.com", "us-east-3", "US-EAST-1", ""] {
            let error = wrong.parse::<Region>().expect_err(wrong).to_string();
            assert!(
                Region::all().all(|region| error.contains(region.name)),
                "{error}"
            );
        }
    }
}
