//! What the SDK's errors mean, decided in one place for all services.

use std::error::Error as StdError;

use aws_credential_types::provider::error::CredentialsError;
use aws_smithy_runtime_api::client::{orchestrator::HttpResponse, result::SdkError};
use aws_smithy_types::error::metadata::ProvideErrorMetadata;

/// What an error of AWS means for the next step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// No answer, throttled, or a server error: nothing is known of what happened, and another attempt may help.
    Unavailable,
    /// Credentials are missing or may not do this.
    Denied,
    /// The thing that was named is not there.
    Missing,
    /// It has changed since it was read, or somebody else was first.
    Precondition,
    /// A change is under way that must end first, or the state does not allow it.
    Busy,
    /// A quota or missing capacity stands against it.
    Limit,
    /// The request is wrong.
    Invalid,
}

/// An error of AWS with its meaning and the service's own words.
#[derive(Debug, thiserror::Error)]
#[error("{text}")]
pub struct Trouble {
    /// What it means.
    pub kind: Kind,
    /// The service's error code, if it answered.
    pub code: Option<String>,
    /// Code, message and request identifier in one line.
    pub(crate) text: String,
}

impl Trouble {
    /// An answer that lacks what it must have.
    pub(crate) fn unexpected(text: impl Into<String>) -> Trouble {
        Trouble { kind: Kind::Unavailable, code: None, text: text.into() }
    }

    /// Whether the service gave this error code.
    pub(crate) fn is(&self, code: &str) -> bool {
        self.code.as_deref() == Some(code)
    }

    /// Whether the thing that was named is not there, or nobody waits for it any more.
    pub fn is_missing(&self) -> bool {
        self.kind == Kind::Missing
    }

    /// The error as the domain's errors carry it.
    pub(crate) fn boxed(self) -> Box<dyn StdError + Send + Sync> {
        Box::new(self)
    }
}

impl<E> From<SdkError<E, HttpResponse>> for Trouble
where
    E: ProvideErrorMetadata + StdError + Send + Sync + 'static,
{
    fn from(error: SdkError<E, HttpResponse>) -> Trouble {
        match &error {
            SdkError::ServiceError(service) => {
                let meta = service.err().meta();
                let status = service.raw().status().as_u16();
                let code = meta.code().map(str::to_owned);
                let mut text = match (&code, meta.message()) {
                    (Some(code), Some(message)) => format!("{code}: {message}"),
                    (Some(code), None) => format!("{code} (HTTP {status})"),
                    (None, Some(message)) => format!("HTTP {status}: {message}"),
                    (None, None) => format!("HTTP {status}"),
                };
                if let Some(request) = meta.extra("aws_request_id") {
                    text.push_str(&format!(" (request {request})"));
                }
                Trouble { kind: kind(code.as_deref(), status), code, text }
            }
            SdkError::ConstructionFailure(_) => Trouble { kind: Kind::Invalid, code: None, text: whole(&error) },
            _ => {
                let kind = if lacks_credentials(&error) { Kind::Denied } else { Kind::Unavailable };
                Trouble { kind, code: None, text: whole(&error) }
            }
        }
    }
}

/// The SDK spreads its story over the chain of causes.
fn whole(error: &(dyn StdError + 'static)) -> String {
    recovery::fault::chain(error)
}

fn lacks_credentials(error: &(dyn StdError + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(here) = cause {
        if let Some(credentials) = here.downcast_ref::<CredentialsError>() {
            return matches!(
                credentials,
                CredentialsError::CredentialsNotLoaded(_) | CredentialsError::InvalidConfiguration(_)
            );
        }
        cause = here.source();
    }
    false
}

/// Codes before statuses: RDS and EKS answer 400 for a busy resource, S3 answers 503 for throttling, and an emulator or a
/// proxy may answer with a status alone.
fn kind(code: Option<&str>, status: u16) -> Kind {
    let code = code.unwrap_or_default();
    match code {
        // https://docs.aws.amazon.com/sdkref/latest/guide/feature-retry-behavior.html
        "Throttling"
        | "ThrottlingException"
        | "ThrottledException"
        | "Throttled"
        | "RequestThrottled"
        | "RequestThrottledException"
        | "RequestLimitExceeded"
        | "TooManyRequestsException"
        | "PriorRequestNotComplete"
        | "ProvisionedThroughputExceededException"
        | "BandwidthLimitExceeded"
        | "SlowDown"
        | "RequestTimeout"
        | "RequestTimeoutException"
        | "InternalError"
        | "InternalFailure"
        | "ServiceUnavailable"
        | "ServiceUnavailableException" => Kind::Unavailable,
        "AccessDenied"
        | "AccessDeniedException"
        | "AllAccessDisabled"
        | "AuthFailure"
        | "AuthorizationError"
        | "AuthorizationErrorException"
        | "ExpiredToken"
        | "ExpiredTokenException"
        | "InvalidAccessKeyId"
        | "InvalidClientTokenId"
        | "KMSAccessDenied"
        | "KMSAccessDeniedException"
        // RDS, of a key that is disabled, of another region, or not there.
        | "KMSKeyNotAccessibleFault"
        | "NotAuthorized"
        | "OptInRequired"
        | "SignatureDoesNotMatch"
        | "UnauthorizedOperation"
        | "UnrecognizedClientException" => Kind::Denied,
        "PreconditionFailed" | "ConditionalRequestConflict" | "InvalidIfMatchVersion" => Kind::Precondition,
        "ResourceInUseException" | "ConflictException" => Kind::Busy,
        "ResourceLimitExceededException" | "LimitExceededException" | "InsufficientDBInstanceCapacity" => Kind::Limit,
        _ if code.contains("NotFound") || code.starts_with("NoSuch") => Kind::Missing,
        // InvalidDBInstanceState, InvalidDBClusterStateFault, InvalidGlobalClusterStateFault
        _ if code.starts_with("Invalid") && (code.ends_with("State") || code.ends_with("StateFault")) => Kind::Busy,
        _ if code.ends_with("QuotaExceeded") || code.ends_with("QuotaExceededFault") => Kind::Limit,
        _ => match status {
            401 | 403 => Kind::Denied,
            404 | 410 => Kind::Missing,
            409 | 412 => Kind::Precondition,
            408 | 429 | 500.. => Kind::Unavailable,
            _ => Kind::Invalid,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_error_of_aws_says_what_it_means() {
        let situations = [
            (Some("SlowDown"), 503, Kind::Unavailable),
            (Some("Throttling"), 400, Kind::Unavailable),
            (Some("PriorRequestNotComplete"), 400, Kind::Unavailable),
            (Some("SomethingNew"), 500, Kind::Unavailable),
            (None, 502, Kind::Unavailable),
            (Some("AccessDenied"), 403, Kind::Denied),
            (Some("UnrecognizedClientException"), 400, Kind::Denied),
            (None, 403, Kind::Denied),
            (Some("KMSKeyNotAccessibleFault"), 400, Kind::Denied),
            (Some("SnapshotQuotaExceeded"), 400, Kind::Limit),
            (Some("InvalidDBSnapshotState"), 400, Kind::Busy),
            (Some("InvalidDBClusterSnapshotStateFault"), 400, Kind::Busy),
            (Some("NoSuchKey"), 404, Kind::Missing),
            (Some("DBInstanceNotFound"), 404, Kind::Missing),
            (Some("ResourceNotFoundException"), 400, Kind::Missing),
            (Some("PreconditionFailed"), 412, Kind::Precondition),
            (Some("ConditionalRequestConflict"), 409, Kind::Precondition),
            (Some("InvalidDBInstanceState"), 400, Kind::Busy),
            (Some("InvalidGlobalClusterStateFault"), 400, Kind::Busy),
            (Some("ResourceInUseException"), 409, Kind::Busy),
            (Some("ResourceLimitExceededException"), 400, Kind::Limit),
            (Some("InvalidChangeBatch"), 400, Kind::Invalid),
            (Some("InvalidParameterException"), 400, Kind::Invalid),
        ];
        for (code, status, expected) in situations {
            assert_eq!(kind(code, status), expected, "{code:?} with HTTP {status}");
        }
    }
}
