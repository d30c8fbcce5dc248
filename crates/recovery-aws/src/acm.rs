//! Certificates of one region: load balancers take those of their own region and no others.

use async_trait::async_trait;
use jiff::Timestamp;
use recovery::closure::{CertificateError, CertificateShelf, ManagedCertificate};
use serde_json::{Value, json};

use crate::{signed::Signed, trouble::Trouble};

/// The certificate manager of one region.
#[derive(Clone, Debug)]
pub struct CertificateManager {
    client: Signed,
}

impl CertificateManager {
    pub(crate) fn new(client: Signed) -> CertificateManager {
        CertificateManager { client }
    }
}

fn failed(arn: &str, trouble: Trouble) -> CertificateError {
    CertificateError { arn: arn.to_owned(), source: trouble.boxed() }
}

#[async_trait]
impl CertificateShelf for CertificateManager {
    async fn certificate(&self, arn: &str) -> Result<Option<ManagedCertificate>, CertificateError> {
        let answer = match self.client.call_json("DescribeCertificate", &json!({ "CertificateArn": arn })).await {
            Ok(answer) => answer,
            Err(trouble) if trouble.is_missing() => return Ok(None),
            Err(trouble) => return Err(failed(arn, trouble)),
        };
        let certificate = &answer["Certificate"];
        let lacks = || failed(arn, Trouble::unexpected("ACM answered without the certificate's status"));
        let status = certificate["Status"].as_str().ok_or_else(lacks)?.to_owned();
        Ok(Some(ManagedCertificate { status, ends_at: seconds(&certificate["NotAfter"]) }))
    }
}

/// ACM writes moments as seconds, some with a fraction.
fn seconds(moment: &Value) -> Option<Timestamp> {
    let seconds = moment.as_i64().or_else(|| moment.as_f64().map(|seconds| seconds as i64))?;
    Timestamp::from_second(seconds).ok()
}
