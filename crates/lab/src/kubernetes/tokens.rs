//! Judges the tokens that EKS takes, as the cluster and STS do together.
//!
//! On EKS the cluster adds its own name as the header `x-k8s-aws-id` and sends the presigned URL to STS, which computes
//! the signature again. So a token for another cluster fails as a wrong signature, and so it does here, with our own
//! computation of Signature Version 4 (IAM user guide, "Create a signed AWS API request"): the code under test signs with
//! another one. The rules of the form are those of aws-iam-authenticator `pkg/token/token.go`.

use std::sync::{PoisonError, RwLock};

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use jiff::{SignedDuration, Timestamp};
use sha2::{Digest, Sha256};
use url::Url;

/// Tokens live this long from the date in them, whatever `X-Amz-Expires` says (aws-iam-authenticator).
const LIFETIME: SignedDuration = SignedDuration::from_mins(15);

/// Clocks may differ this much.
const SKEW: SignedDuration = SignedDuration::from_mins(5);

/// Whom an access key belongs to.
#[derive(Clone, Debug)]
pub struct Caller {
    /// `AKIA…`.
    pub access_key_id: String,
    /// The key's secret.
    pub secret_access_key: String,
    /// User of the cluster that the role is mapped to.
    pub user: String,
    /// Groups of that user.
    pub groups: Vec<String>,
}

/// What tokens must be for one cluster.
#[derive(Debug)]
pub struct TokenCheck {
    /// EKS cluster name.
    pub cluster: String,
    /// The cluster's region, whose STS must have been asked.
    pub region: String,
    /// Who may come; more are let in later by [`TokenCheck::admit`].
    pub callers: RwLock<Vec<Caller>>,
}

/// Why a token is not taken.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Not `k8s-aws-v1.` and base64url of a presigned URL.
    #[error("the token is not of the form of EKS: {0}")]
    Form(&'static str),
    /// Signed for the STS that lives in us-east-1.
    #[error(
        "the token asks the global sts.amazonaws.com, which is gone with us-east-1; sign for sts.{0}.amazonaws.com"
    )]
    GlobalSts(String),
    /// Another host.
    #[error("the token asks `{0}`, which is not the regional STS of this cluster")]
    Host(String),
    /// Too old or from the future.
    #[error("the token is of {0} and has expired or is not valid yet")]
    Expired(Timestamp),
    /// Nobody's key.
    #[error("the token's access key is mapped to nobody in this cluster")]
    Unknown,
    /// Another secret, another cluster's name, or changed on the way.
    #[error("the token's signature is not that of its access key for this cluster")]
    Signature,
}

impl TokenCheck {
    /// Finds out who sent a token, as of `now`.
    ///
    /// # Errors
    /// Why it is not taken.
    pub fn caller(&self, token: &str, now: Timestamp) -> Result<Caller, Refusal> {
        let encoded = token.strip_prefix("k8s-aws-v1.").ok_or(Refusal::Form("it does not begin with k8s-aws-v1."))?;
        let bytes =
            BASE64_URL_SAFE_NO_PAD.decode(encoded).map_err(|_| Refusal::Form("it is not unpadded base64url"))?;
        let text = String::from_utf8(bytes).map_err(|_| Refusal::Form("it holds no text"))?;
        let url = Url::parse(&text).map_err(|_| Refusal::Form("it holds no URL"))?;
        if url.scheme() != "https" || url.path() != "/" {
            return Err(Refusal::Form("it is not https://…/"));
        }
        match url.host_str().unwrap_or_default() {
            "sts.amazonaws.com" => return Err(Refusal::GlobalSts(self.region.clone())),
            host if host == format!("sts.{}.amazonaws.com", self.region) => {}
            host => return Err(Refusal::Host(host.to_owned())),
        }
        let of = |name: &str| url.query_pairs().find(|(key, _)| key == name).map(|(_, value)| value.into_owned());
        if of("Action").as_deref() != Some("GetCallerIdentity") || of("Version").as_deref() != Some("2011-06-15") {
            return Err(Refusal::Form("it is not GetCallerIdentity of 2011-06-15"));
        }
        if of("X-Amz-Algorithm").as_deref() != Some("AWS4-HMAC-SHA256") {
            return Err(Refusal::Form("it is not signed with AWS4-HMAC-SHA256"));
        }
        if of("X-Amz-SignedHeaders").as_deref() != Some("host;x-k8s-aws-id") {
            return Err(Refusal::Form("it does not sign host and x-k8s-aws-id"));
        }
        let expires = of("X-Amz-Expires").and_then(|seconds| seconds.parse::<u32>().ok());
        if expires.is_none_or(|seconds| seconds > 900) {
            return Err(Refusal::Form("X-Amz-Expires is not within 0 to 900 seconds"));
        }
        let date = of("X-Amz-Date").unwrap_or_default();
        let signed_at = jiff::civil::DateTime::strptime("%Y%m%dT%H%M%SZ", &date)
            .ok()
            .and_then(|date| date.to_zoned(jiff::tz::TimeZone::UTC).ok())
            .ok_or(Refusal::Form("X-Amz-Date is not a date"))?
            .timestamp();
        if now > signed_at + LIFETIME || signed_at > now + SKEW {
            return Err(Refusal::Expired(signed_at));
        }
        let credential = of("X-Amz-Credential").unwrap_or_default();
        let (key, scope) = credential.split_once('/').ok_or(Refusal::Form("X-Amz-Credential has no scope"))?;
        if scope != format!("{}/{}/sts/aws4_request", &date[..8], self.region) {
            return Err(Refusal::Form("the signature's scope is not the region's STS on the token's day"));
        }
        let callers = self.callers.read().unwrap_or_else(PoisonError::into_inner);
        let caller = callers.iter().find(|caller| caller.access_key_id == key).ok_or(Refusal::Unknown)?;
        let signature = of("X-Amz-Signature").unwrap_or_default();
        if self.signature(&url, &date, scope, &caller.secret_access_key) != signature {
            return Err(Refusal::Signature);
        }
        Ok(caller.clone())
    }

    /// Lets somebody in, as an access entry of EKS does.
    pub fn admit(&self, caller: Caller) {
        self.callers.write().unwrap_or_else(PoisonError::into_inner).push(caller);
    }

    fn signature(&self, url: &Url, date: &str, scope: &str, secret: &str) -> String {
        let mut query: Vec<String> = url
            .query_pairs()
            .filter(|(key, _)| key != "X-Amz-Signature")
            .map(|(key, value)| format!("{}={}", escaped(&key), escaped(&value)))
            .collect();
        query.sort();
        let host = url.host_str().unwrap_or_default();
        let request = format!(
            "GET\n/\n{}\nhost:{host}\nx-k8s-aws-id:{}\n\nhost;x-k8s-aws-id\n{}",
            query.join("&"),
            self.cluster,
            hex(&Sha256::digest(b"")),
        );
        let text = format!("AWS4-HMAC-SHA256\n{date}\n{scope}\n{}", hex(&Sha256::digest(request.as_bytes())));
        let mut key = format!("AWS4{secret}").into_bytes();
        for part in scope.split('/') {
            key = hmac(&key, part.as_bytes());
        }
        hex(&hmac(&key, text.as_bytes()))
    }
}

/// RFC 2104 over SHA-256.
fn hmac(key: &[u8], message: &[u8]) -> Vec<u8> {
    let mut block = [0u8; 64];
    if key.len() > block.len() {
        block[..32].copy_from_slice(&Sha256::digest(key));
    } else {
        block[..key.len()].copy_from_slice(key);
    }
    let inner = Sha256::new().chain_update(block.map(|byte| byte ^ 0x36)).chain_update(message).finalize();
    Sha256::new().chain_update(block.map(|byte| byte ^ 0x5c)).chain_update(inner).finalize().to_vec()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn escaped(text: &str) -> String {
    let escape = |byte: u8| match byte {
        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => char::from(byte).to_string(),
        _ => format!("%{byte:02X}"),
    };
    text.bytes().map(escape).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Signed by botocore 1.44.5 for cluster `sparc-west`, clock pinned to 2026-11-23T04:05:06Z.
    const BY_BOTOCORE: &str = "https://sts.us-west-2.amazonaws.com/?Action=GetCallerIdentity&Version=2011-06-15&X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AKIDEXAMPLE%2F20261123%2Fus-west-2%2Fsts%2Faws4_request&X-Amz-Date=20261123T040506Z&X-Amz-Expires=60&X-Amz-SignedHeaders=host%3Bx-k8s-aws-id&X-Amz-Signature=e12c6a257c2c3f73208b8b0c9e83a28d7d3435c4b73c3ec5d6ff99003de73ce5";

    fn check(cluster: &str, secret: &str) -> TokenCheck {
        TokenCheck {
            cluster: cluster.to_owned(),
            region: "us-west-2".to_owned(),
            callers: RwLock::new(vec![Caller {
                access_key_id: "AKIDEXAMPLE".to_owned(),
                secret_access_key: secret.to_owned(),
                user: "sparc-recovery".to_owned(),
                groups: Vec::new(),
            }]),
        }
    }

    #[test]
    fn a_token_is_taken_as_eks_takes_it_and_refused_with_a_reason() {
        const SECRET: &str = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";
        let token = |url: &str| format!("k8s-aws-v1.{}", BASE64_URL_SAFE_NO_PAD.encode(url));
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        let signed_at = at("2026-11-23T04:05:06Z");
        let good = token(BY_BOTOCORE);
        let situations = [
            ("fresh", check("sparc-west", SECRET), good.clone(), "2026-11-23T04:05:30Z", None),
            ("in its fifteenth minute", check("sparc-west", SECRET), good.clone(), "2026-11-23T04:20:00Z", None),
            (
                "older",
                check("sparc-west", SECRET),
                good.clone(),
                "2026-11-23T04:20:07Z",
                Some(Refusal::Expired(signed_at)),
            ),
            (
                "tomorrow's",
                check("sparc-west", SECRET),
                good.clone(),
                "2026-11-22T04:05:06Z",
                Some(Refusal::Expired(signed_at)),
            ),
            (
                "another cluster's",
                check("sparc-east", SECRET),
                good.clone(),
                "2026-11-23T04:05:30Z",
                Some(Refusal::Signature),
            ),
            (
                "another secret's",
                check("sparc-west", "other"),
                good.clone(),
                "2026-11-23T04:05:30Z",
                Some(Refusal::Signature),
            ),
            (
                "a parameter changed",
                check("sparc-west", SECRET),
                token(&BY_BOTOCORE.replace("Expires=60", "Expires=61")),
                "2026-11-23T04:05:30Z",
                Some(Refusal::Signature),
            ),
            (
                "the global STS",
                check("sparc-west", SECRET),
                token(&BY_BOTOCORE.replace("sts.us-west-2.", "sts.")),
                "2026-11-23T04:05:30Z",
                Some(Refusal::GlobalSts("us-west-2".to_owned())),
            ),
            (
                "another host",
                check("sparc-west", SECRET),
                token(&BY_BOTOCORE.replace("amazonaws.com", "example.org")),
                "2026-11-23T04:05:30Z",
                Some(Refusal::Host("sts.us-west-2.example.org".to_owned())),
            ),
            (
                "nobody's key",
                check("sparc-west", SECRET),
                token(&BY_BOTOCORE.replace("AKIDEXAMPLE", "AKIDOTHER")),
                "2026-11-23T04:05:30Z",
                Some(Refusal::Unknown),
            ),
            (
                "no prefix",
                check("sparc-west", SECRET),
                "abc".to_owned(),
                "2026-11-23T04:05:30Z",
                Some(Refusal::Form("it does not begin with k8s-aws-v1.")),
            ),
        ];
        for (situation, check, token, now, refusal) in situations {
            assert_eq!(check.caller(&token, at(now)).err(), refusal, "{situation}");
        }
    }
}
