//! Signs the bearer token that an EKS cluster takes.
//!
//! The token is a presigned `GetCallerIdentity` of STS: the cluster adds its own name as `x-k8s-aws-id`, asks STS who
//! signed, and maps the answer to a user of its own. Nothing is called here, so a token costs no control plane. The host is
//! the *regional* STS: a token signed for `sts.amazonaws.com` is worth nothing when us-east-1 is gone.
//!
//! The form is that of `aws eks get-token` (AWS CLI `customizations/eks/get_token.py`) and of aws-iam-authenticator, which
//! takes the token for 15 minutes from its date on, whatever `X-Amz-Expires` says; 60 seconds is what both sign.

use std::fmt;
use std::time::{Duration, SystemTime};

use aws_credential_types::Credentials;
use aws_sigv4::http_request::{SignableBody, SignableRequest, SignatureLocation, SigningSettings, sign};
use aws_sigv4::sign::v4;
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use url::Url;

/// `X-Amz-Expires` of the presigned URL.
const EXPIRES: Duration = Duration::from_secs(60);

/// How long a caller should go on using one token. The cluster takes it for 15 minutes; the signed 60 seconds are honest
/// with a verifier that is stricter.
pub const VALID_FOR: Duration = EXPIRES;

/// A bearer token for one cluster. It is not printed by `Debug`.
#[derive(Clone)]
pub struct EksToken(String);

impl EksToken {
    /// What goes after `Authorization: Bearer `.
    pub fn secret(&self) -> &str {
        &self.0
    }

    /// Takes the token out.
    pub fn into_secret(self) -> String {
        self.0
    }
}

impl fmt::Debug for EksToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("EksToken(…)")
    }
}

/// The token could not be signed.
#[derive(Debug, thiserror::Error)]
#[error("cannot sign a token for cluster `{cluster}` in `{region}`")]
pub struct EksTokenError {
    cluster: String,
    region: String,
    #[source]
    source: Box<dyn std::error::Error + Send + Sync>,
}

/// Signs a token for `cluster` with the regional STS of `region`, as of `now`.
///
/// # Errors
/// The region or the cluster's name cannot stand in a URL or a header.
pub fn sign_eks_token(
    credentials: &Credentials,
    region: &str,
    cluster: &str,
    now: SystemTime,
) -> Result<EksToken, EksTokenError> {
    presign(credentials, region, cluster, now)
        .map(|url| EksToken(format!("k8s-aws-v1.{}", BASE64_URL_SAFE_NO_PAD.encode(url.as_str()))))
        .map_err(|source| EksTokenError { cluster: cluster.to_owned(), region: region.to_owned(), source })
}

fn presign(
    credentials: &Credentials,
    region: &str,
    cluster: &str,
    now: SystemTime,
) -> Result<Url, Box<dyn std::error::Error + Send + Sync>> {
    // The China partition has a domain of its own.
    let suffix = if region.starts_with("cn-") { "amazonaws.com.cn" } else { "amazonaws.com" };
    let mut url = Url::parse(&format!("https://sts.{region}.{suffix}/?Action=GetCallerIdentity&Version=2011-06-15"))?;

    let identity = credentials.clone().into();
    let mut settings = SigningSettings::default();
    settings.signature_location = SignatureLocation::QueryParams;
    settings.expires_in = Some(EXPIRES);
    let params = v4::SigningParams::builder()
        .identity(&identity)
        .region(region)
        .name("sts")
        .time(now)
        .settings(settings)
        .build()?;
    let headers = std::iter::once(("x-k8s-aws-id", cluster));
    let request = SignableRequest::new("GET", url.as_str(), headers, SignableBody::Bytes(&[]))?;
    let (instructions, _) = sign(request, &params.into())?.into_parts();
    let (_, query) = instructions.into_parts();
    url.query_pairs_mut().extend_pairs(query);
    Ok(url)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    /// 2026-11-23T04:05:06Z.
    const NOW: u64 = 1_795_406_706;

    /// Signed by botocore 1.44.5 (`RequestSigner.generate_presigned_url`, as `aws eks get-token` calls it), clock pinned.
    const BY_BOTOCORE: [(&str, &str, Option<&str>, &str); 2] = [
        (
            "us-west-2",
            "sparc-west",
            None,
            "https://sts.us-west-2.amazonaws.com/?Action=GetCallerIdentity&Version=2011-06-15&X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AKIDEXAMPLE%2F20261123%2Fus-west-2%2Fsts%2Faws4_request&X-Amz-Date=20261123T040506Z&X-Amz-Expires=60&X-Amz-SignedHeaders=host%3Bx-k8s-aws-id&X-Amz-Signature=e12c6a257c2c3f73208b8b0c9e83a28d7d3435c4b73c3ec5d6ff99003de73ce5",
        ),
        (
            "eu-central-1",
            "sparc-secondary",
            Some("IQoJb3JpZ2luX2VjEXAMPLE/+=="),
            "https://sts.eu-central-1.amazonaws.com/?Action=GetCallerIdentity&Version=2011-06-15&X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AKIDEXAMPLE%2F20261123%2Feu-central-1%2Fsts%2Faws4_request&X-Amz-Date=20261123T040506Z&X-Amz-Expires=60&X-Amz-SignedHeaders=host%3Bx-k8s-aws-id&X-Amz-Security-Token=IQoJb3JpZ2luX2VjEXAMPLE%2F%2B%3D%3D&X-Amz-Signature=cf1318ed9d0120682d0c8e38dbafca225a69e3d9785ece72a96ca256a66dfd9a",
        ),
    ];

    fn url_in(token: &EksToken) -> Url {
        let encoded = token.secret().strip_prefix("k8s-aws-v1.").unwrap();
        let bytes = BASE64_URL_SAFE_NO_PAD.decode(encoded).unwrap();
        Url::parse(&String::from_utf8(bytes).unwrap()).unwrap()
    }

    fn signed(region: &str, cluster: &str, session: Option<&str>) -> EksToken {
        let credentials = Credentials::new(
            "AKIDEXAMPLE",
            "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY",
            session.map(str::to_owned),
            None,
            "test",
        );
        sign_eks_token(&credentials, region, cluster, SystemTime::UNIX_EPOCH + Duration::from_secs(NOW)).unwrap()
    }

    #[test]
    fn a_token_is_signed_as_botocore_signs_it() {
        for (region, cluster, session, expected) in BY_BOTOCORE {
            let ours = url_in(&signed(region, cluster, session));
            let theirs = Url::parse(expected).unwrap();
            assert_eq!(ours.host_str(), theirs.host_str());
            assert_eq!(ours.path(), theirs.path());
            // The order of the parameters is not part of the signature.
            let pairs = |url: &Url| url.query_pairs().into_owned().collect::<BTreeMap<_, _>>();
            assert_eq!(pairs(&ours), pairs(&theirs), "{region}");
        }
    }

    #[test]
    fn a_token_is_for_one_cluster_only() {
        let signature = |cluster| {
            url_in(&signed("us-west-2", cluster, None))
                .query_pairs()
                .find(|(k, _)| k == "X-Amz-Signature")
                .unwrap()
                .1
                .into_owned()
        };
        assert_ne!(signature("sparc-west"), signature("sparc-east"));
    }

    #[test]
    fn a_token_asks_the_sts_of_its_region_and_never_the_global_one() {
        for region in ["us-west-2", "us-east-1", "cn-north-1"] {
            let url = url_in(&signed(region, "c", None));
            let suffix = if region == "cn-north-1" { ".cn" } else { "" };
            assert_eq!(url.host_str().unwrap(), format!("sts.{region}.amazonaws.com{suffix}"));
        }
    }

    #[test]
    fn a_token_is_not_printed() {
        assert_eq!(format!("{:?}", signed("us-west-2", "c", None)), "EksToken(…)");
    }
}
