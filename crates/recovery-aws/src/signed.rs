//! Requests that are signed here instead of by an SDK of the service.
//!
//! `drctl deploy check` asks EC2, Service Quotas and CloudFormation a handful of questions. Their SDK crates would be the largest
//! of the tree (EC2's alone has some 700 operations and compiles for minutes), for every build and every function that links
//! this crate. The connections, the time limits, the credentials and the endpoints are those of the SDK.

use std::time::SystemTime;

use aws_config::SdkConfig;
use aws_credential_types::provider::ProvideCredentials;
use aws_sigv4::{
    http_request::{SignableBody, SignableRequest, SigningSettings, sign},
    sign::v4,
};
use aws_smithy_runtime::client::orchestrator::operation::Operation;
use aws_smithy_runtime_api::client::{
    orchestrator::{HttpRequest, HttpResponse, OrchestratorError},
    result::SdkError,
};
use aws_smithy_types::{
    body::SdkBody,
    error::{ErrorMetadata, metadata::ProvideErrorMetadata},
};
use roxmltree::{Document, Node};
use serde_json::Value;
use url::form_urlencoded::Serializer;

use crate::{
    aws::endpoint_override,
    trouble::{Kind, Trouble},
};

/// A service of one region.
#[derive(Clone, Debug)]
pub(crate) struct Signed {
    config: SdkConfig,
    service: Service,
    region: String,
    endpoint: String,
}

/// A service, as it is signed for and spoken to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Service {
    /// In the credential scope and in its host name: `ec2`.
    pub name: &'static str,
    /// As the SDK calls it where an endpoint is overridden: `Service Quotas` is `AWS_ENDPOINT_URL_SERVICE_QUOTAS`.
    pub id: &'static str,
    /// How a request is written.
    pub protocol: Protocol,
}

/// How a request is written.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Protocol {
    /// A form with `Action` and this `Version`, answered in XML.
    Query(&'static str),
    /// JSON 1.1 with this prefix in `X-Amz-Target`.
    Json(&'static str),
}

/// What a service refuses with.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Refused(ErrorMetadata);

impl ProvideErrorMetadata for Refused {
    fn meta(&self) -> &ErrorMetadata {
        &self.0
    }
}

#[derive(Clone, Debug)]
struct Prepared {
    headers: Vec<(String, String)>,
    body: String,
}

impl Signed {
    pub(crate) fn new(config: SdkConfig, service: Service) -> Signed {
        let region = config.region().map(ToString::to_string).unwrap_or_default();
        // The China partition has a domain of its own.
        let suffix = if region.starts_with("cn-") { "amazonaws.com.cn" } else { "amazonaws.com" };
        let endpoint = endpoint_override(&config, service.id)
            .or_else(|| config.endpoint_url().map(str::to_owned))
            .unwrap_or_else(|| format!("https://{}.{region}.{suffix}", service.name));
        Signed { config, service, region, endpoint: endpoint.trim_end_matches('/').to_owned() }
    }

    /// The region that it is asked in.
    pub(crate) fn region(&self) -> &str {
        &self.region
    }

    /// Asks in the query protocol.
    ///
    /// # Errors
    /// The service's.
    pub(crate) async fn call(&self, operation: &str, parameters: &[(String, String)]) -> Result<String, Trouble> {
        let Protocol::Query(version) = self.service.protocol else { return Err(self.speaks_otherwise()) };
        // Gone before the call is awaited, since the form cannot be sent between threads.
        let body = {
            let mut form = Serializer::new(String::new());
            form.append_pair("Action", operation).append_pair("Version", version).extend_pairs(parameters);
            form.finish()
        };
        let headers = vec![("content-type".to_owned(), "application/x-www-form-urlencoded".to_owned())];
        self.send(operation, Prepared { headers, body }).await
    }

    /// Asks in JSON.
    ///
    /// # Errors
    /// The service's.
    pub(crate) async fn call_json(&self, operation: &str, request: &Value) -> Result<Value, Trouble> {
        let Protocol::Json(prefix) = self.service.protocol else { return Err(self.speaks_otherwise()) };
        let headers = vec![
            ("content-type".to_owned(), "application/x-amz-json-1.1".to_owned()),
            ("x-amz-target".to_owned(), format!("{prefix}.{operation}")),
        ];
        let answer = self.send(operation, Prepared { headers, body: request.to_string() }).await?;
        serde_json::from_str(&answer)
            .map_err(|error| Trouble::unexpected(format!("{} answered no JSON: {error}", self.service.id)))
    }

    fn speaks_otherwise(&self) -> Trouble {
        Trouble { kind: Kind::Invalid, code: None, text: format!("{} speaks another protocol", self.service.id) }
    }

    async fn send(&self, operation: &str, mut request: Prepared) -> Result<String, Trouble> {
        self.sign(&mut request).await?;
        let http = self.config.http_client().ok_or_else(|| Trouble::unexpected("there is no HTTP client"))?;
        let mut builder = Operation::builder()
            .service_name(self.service.id)
            .operation_name(operation.to_owned())
            .http_client(http)
            .endpoint_url(&self.endpoint)
            .no_auth()
            .no_retry();
        if let Some(timeouts) = self.config.timeout_config() {
            builder = builder.timeout_config(timeouts.clone());
        }
        if let Some(sleep) = self.config.sleep_impl() {
            builder = builder.sleep_impl(sleep);
        }
        let operation = builder.serializer(written).deserializer(read).build();
        let answered: Result<String, SdkError<Refused, HttpResponse>> = operation.invoke(request).await;
        answered.map_err(Trouble::from)
    }

    async fn sign(&self, request: &mut Prepared) -> Result<(), Trouble> {
        let denied = |text: String| Trouble { kind: Kind::Denied, code: None, text };
        let provider =
            self.config.credentials_provider().ok_or_else(|| denied("there are no AWS credentials".into()))?;
        let credentials = provider.provide_credentials().await;
        let identity = credentials.map_err(|error| denied(recovery::fault::chain(&error)))?.into();
        let wrong = |text: String| Trouble { kind: Kind::Invalid, code: None, text };
        let parameters = v4::SigningParams::builder()
            .identity(&identity)
            .region(&self.region)
            .name(self.service.name)
            .time(SystemTime::now())
            .settings(SigningSettings::default())
            .build()
            .map_err(|error| wrong(recovery::fault::chain(&error)))?;
        let url = format!("{}/", self.endpoint);
        let headers = request.headers.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let signed = SignableRequest::new("POST", url, headers, SignableBody::Bytes(request.body.as_bytes()))
            .and_then(|request| sign(request, &parameters.into()))
            .map_err(|error| wrong(recovery::fault::chain(&error)))?;
        let (instructions, _) = signed.into_parts();
        let (headers, _) = instructions.into_parts();
        request.headers.extend(headers.into_iter().map(|header| (header.name().to_owned(), header.value().to_owned())));
        Ok(())
    }
}

fn written(prepared: Prepared) -> Result<HttpRequest, Box<dyn std::error::Error + Send + Sync>> {
    let mut request = HttpRequest::new(SdkBody::from(prepared.body));
    request.set_method("POST")?;
    request.set_uri("/")?;
    for (name, value) in prepared.headers {
        request.headers_mut().try_insert(name, value)?;
    }
    Ok(request)
}

fn read(response: &HttpResponse) -> Result<String, OrchestratorError<Refused>> {
    let body = String::from_utf8_lossy(response.body().bytes().unwrap_or_default()).into_owned();
    if response.status().is_success() {
        return Ok(body);
    }
    Err(OrchestratorError::operation(Refused(refusal(&body))))
}

/// `<Error><Code>…</Code><Message>…` somewhere in XML, or `{"__type": "prefix#Code", "message": …}`.
fn refusal(body: &str) -> ErrorMetadata {
    let mut refusal = ErrorMetadata::builder();
    if let Ok(json) = serde_json::from_str::<Value>(body) {
        if let Some(kind) = json["__type"].as_str() {
            refusal = refusal.code(kind.rsplit('#').next().unwrap_or(kind));
        }
        if let Some(message) = json["message"].as_str().or_else(|| json["Message"].as_str()) {
            refusal = refusal.message(message);
        }
    } else if let Ok(document) = Document::parse(body) {
        for error in every(document.root(), "Error").take(1) {
            if let Some(code) = text(error, "Code") {
                refusal = refusal.code(code);
            }
            if let Some(message) = text(error, "Message") {
                refusal = refusal.message(message);
            }
        }
    }
    refusal.build()
}

/// An answer as XML.
///
/// # Errors
/// It is none.
pub(crate) fn parsed<'a>(service: &str, answer: &'a str) -> Result<Document<'a>, Trouble> {
    Document::parse(answer).map_err(|error| Trouble::unexpected(format!("{service} answered no XML: {error}")))
}

/// Every element of this name below a node, at any depth.
pub(crate) fn every<'a>(below: Node<'a, 'a>, name: &'static str) -> impl Iterator<Item = Node<'a, 'a>> {
    below.descendants().filter(move |node| node.tag_name().name() == name)
}

/// The members of a list: elements that are called `item` or `member`, directly below the list's own element.
pub(crate) fn members<'a>(below: Node<'a, 'a>, list: &'static str) -> impl Iterator<Item = Node<'a, 'a>> {
    every(below, list)
        .flat_map(|list| list.children())
        .filter(|node| matches!(node.tag_name().name(), "item" | "member"))
}

/// The text of a child.
pub(crate) fn text<'a>(node: Node<'a, 'a>, name: &str) -> Option<&'a str> {
    node.children().find(|child| child.tag_name().name() == name)?.text()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_understood_in_every_form_that_services_write_it() {
        let situations = [
            (
                "<Response><Errors><Error><Code>InvalidSubnetID.NotFound</Code><Message>no subnet</Message></Error></Errors></Response>",
                ("InvalidSubnetID.NotFound", "no subnet"),
            ),
            (
                "<ErrorResponse xmlns=\"http://cloudformation.amazonaws.com/doc/2010-05-15/\"><Error><Type>Sender</Type>\
                 <Code>ValidationError</Code><Message>no stack</Message></Error></ErrorResponse>",
                ("ValidationError", "no stack"),
            ),
            (
                r#"{"__type":"com.amazonaws.servicequotas#NoSuchResourceException","Message":"no quota"}"#,
                ("NoSuchResourceException", "no quota"),
            ),
        ];
        for (body, (code, message)) in situations {
            let refusal = refusal(body);
            assert_eq!((refusal.code(), refusal.message()), (Some(code), Some(message)), "{body}");
        }
        assert_eq!(refusal("<html>busy").code(), None);
    }
}
