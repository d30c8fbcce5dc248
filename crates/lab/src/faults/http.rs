//! The proxy for AWS and Kubernetes.

use std::io;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, Request, Response};
use futures::stream;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

use super::{Desk, Script};
use crate::error::{Error, Result};
use crate::tls::Authority;

const KUBERNETES: &str = "kubernetes";
/// Enough for a body that pauses to be written out.
const FLUSH: Duration = Duration::from_millis(20);

/// What the proxy stands in front of.
#[derive(Debug, Clone)]
pub struct Upstream {
    /// Where it answers; a path in front of every request's is allowed.
    pub url: String,
    /// The authority of an `https` upstream, as PEM.
    pub authority: Option<String>,
    /// What calls without a signature of AWS are called on the desk.
    pub unsigned: &'static str,
}

impl Upstream {
    /// A plain one, of AWS.
    pub fn plain(url: impl Into<String>) -> Self {
        Self { url: url.into(), authority: None, unsigned: "unsigned" }
    }

    /// A plain one whose calls nobody signs.
    pub fn unsigned(name: &'static str, url: impl Into<String>) -> Self {
        Self { unsigned: name, ..Self::plain(url) }
    }

    /// A Kubernetes API behind TLS.
    pub fn kubernetes(url: impl Into<String>, authority: impl Into<String>) -> Self {
        Self { url: url.into(), authority: Some(authority.into()), unsigned: KUBERNETES }
    }
}

/// A running proxy. Dropping it closes the listener and every connection.
#[derive(Debug)]
pub struct HttpProxy {
    url: String,
    desk: Desk,
    listener: JoinHandle<()>,
}

#[derive(Clone)]
struct Relay {
    upstream: Arc<str>,
    unsigned: &'static str,
    http: reqwest::Client,
    desk: Desk,
}

impl HttpProxy {
    /// Starts a proxy that speaks plain HTTP to its clients.
    pub async fn start(upstream: Upstream, desk: Desk) -> Result<Self> {
        Self::listen(upstream, desk, None).await
    }

    /// Starts one that speaks TLS to its clients, with a certificate of the lab's authority for 127.0.0.1.
    pub async fn start_tls(upstream: Upstream, desk: Desk, authority: &Authority) -> Result<Self> {
        let acceptor = authority.acceptor(&["127.0.0.1", "localhost"])?;
        Self::listen(upstream, desk, Some(acceptor)).await
    }

    async fn listen(upstream: Upstream, desk: Desk, tls: Option<TlsAcceptor>) -> Result<Self> {
        let no_client = |e: reqwest::Error| Error::State(format!("no HTTP client for {}: {e}", upstream.url));
        let mut http = reqwest::Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none());
        if let Some(pem) = &upstream.authority {
            let authority = reqwest::Certificate::from_pem(pem.as_bytes()).map_err(no_client)?;
            http = http.tls_certs_only([authority]);
        }
        let relay = Relay {
            http: http.build().map_err(no_client)?,
            upstream: upstream.url.trim_end_matches('/').into(),
            unsigned: upstream.unsigned,
            desk: desk.clone(),
        };
        let (listener, port) = listen().await?;
        let scheme = if tls.is_some() { "https" } else { "http" };
        let listener = tokio::spawn(async move {
            // Owned by this task, so that dropping the proxy ends the connections too.
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (relay, tls) = (relay.clone(), tls.clone());
                connections.spawn(async move {
                    match tls {
                        None => relay.serve(TokioIo::new(stream)).await,
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(stream).await {
                                relay.serve(TokioIo::new(stream)).await;
                            }
                        }
                    }
                });
                while connections.try_join_next().is_some() {}
            }
        });
        Ok(Self { url: format!("{scheme}://127.0.0.1:{port}"), desk, listener })
    }

    /// Where it listens.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Its desk.
    pub fn desk(&self) -> &Desk {
        &self.desk
    }
}

impl Drop for HttpProxy {
    fn drop(&mut self) {
        self.listener.abort();
    }
}

impl Relay {
    async fn serve<IO: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static>(self, io: IO) {
        let service = service_fn(move |request| {
            let relay = self.clone();
            async move { relay.handle(request).await }
        });
        // An error of the service closes the connection without an answer: the caller sees its request vanish.
        let _ = hyper::server::conn::http1::Builder::new().serve_connection(io, service).await;
    }

    async fn handle(self, request: Request<Incoming>) -> io::Result<Response<Body>> {
        let (parts, body) = request.into_parts();
        let body = axum::body::to_bytes(Body::new(body), usize::MAX).await.map_err(io::Error::other)?;
        let path = parts.uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
        let service = service_of(&parts.headers).unwrap_or_else(|| self.unsigned.to_owned());
        let (operation, shape) = operation_of(parts.method.as_str(), &parts.headers, &body, &service);
        let script = self.desk.take(&service, &operation, &path, &readable(&parts.headers, &body));
        if let Some(Script::Reject { status, code }) = &script {
            return Ok(rejection(*status, code, shape));
        }
        let held = matches!(script, Some(Script::Hold)).then(|| {
            let desk = self.desk.clone();
            async move { desk.held().await }
        });
        let mut onward = self.http.request(parts.method, format!("{}{path}", self.upstream)).body(body);
        for (name, value) in &parts.headers {
            if !matches!(name.as_str(), "connection" | "transfer-encoding" | "content-length" | "expect") {
                onward = onward.header(name, value);
            }
        }
        // A task of its own: the work is done also when the caller has gone.
        let answer = tokio::spawn(async move {
            if let Some(held) = held {
                held.await;
            }
            onward.send().await
        });
        let answer = answer.await.map_err(io::Error::other)?.map_err(io::Error::other)?;
        match script {
            Some(Script::LoseAnswer) => {
                let _ = answer.bytes().await;
                return Err(io::Error::other("the answer is lost"));
            }
            Some(Script::Slow(delay)) => tokio::time::sleep(delay).await,
            _ => {}
        }
        let (mut pieces_of, mut pause, mut breaks_after) = (usize::MAX, Duration::ZERO, usize::MAX);
        match script {
            Some(Script::Trickle { piece_bytes, pause: before_each }) => {
                (pieces_of, pause) = (piece_bytes.max(1), before_each)
            }
            Some(Script::BreakBody { after_bytes }) => breaks_after = after_bytes,
            _ => {}
        }
        let mut response = Response::builder().status(answer.status());
        for (name, value) in answer.headers() {
            // The length stays: an answer to HEAD has nothing else to say how large the object is.
            if !matches!(name.as_str(), "connection" | "transfer-encoding") {
                response = response.header(name, value);
            }
        }
        // Passed on piece by piece: a watch of Kubernetes never ends.
        let pieces = stream::unfold((answer, Bytes::new(), 0), move |(mut answer, mut rest, sent)| async move {
            if rest.is_empty() {
                rest = match answer.chunk().await {
                    Ok(Some(piece)) => piece,
                    Ok(None) => return None,
                    Err(error) => return Some((Err(io::Error::other(error)), (answer, rest, sent))),
                };
            }
            if sent >= breaks_after {
                // What was sent until here goes out while nothing more is there to be sent.
                tokio::time::sleep(FLUSH).await;
                return Some((Err(io::Error::other("the answer breaks off")), (answer, rest, sent)));
            }
            if !pause.is_zero() {
                tokio::time::sleep(pause).await;
            }
            let piece = rest.split_to(rest.len().min(pieces_of).min(breaks_after - sent));
            let sent = sent + piece.len();
            Some((Ok::<_, io::Error>(piece), (answer, rest, sent)))
        });
        response.body(Body::from_stream(pieces)).map_err(io::Error::other)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shape {
    Json,
    QueryXml,
    RestXml,
    Kubernetes,
}

/// The service in the credential scope of a signed request.
fn service_of(headers: &HeaderMap) -> Option<String> {
    let authorization = headers.get("authorization").and_then(|value| value.to_str().ok())?;
    authorization.split("Credential=").nth(1)?.split('/').nth(3).map(str::to_owned)
}

/// The body as people write it: forms hide spaces and quotes.
fn readable(headers: &HeaderMap, body: &[u8]) -> Vec<u8> {
    let kind = headers.get("content-type").and_then(|value| value.to_str().ok()).unwrap_or_default();
    if !kind.starts_with("application/x-www-form-urlencoded") {
        return body.to_vec();
    }
    let fields: Vec<String> =
        url::form_urlencoded::parse(body).map(|(name, value)| format!("{name}={value}")).collect();
    fields.join("&").into_bytes()
}

fn operation_of(method: &str, headers: &HeaderMap, body: &[u8], service: &str) -> (String, Shape) {
    if let Some(target) = headers.get("x-amz-target").and_then(|value| value.to_str().ok()) {
        return (target.rsplit('.').next().unwrap_or(target).to_owned(), Shape::Json);
    }
    let action =
        url::form_urlencoded::parse(body).find(|(name, _)| name == "Action").map(|(_, value)| value.into_owned());
    let shape = match service {
        KUBERNETES => Shape::Kubernetes,
        "s3" => Shape::RestXml,
        "route53" | "cloudfront" => Shape::QueryXml,
        _ => Shape::Json,
    };
    match action {
        Some(action) => (action, Shape::QueryXml),
        None => (method.to_owned(), shape),
    }
}

fn rejection(status: u16, code: &str, shape: Shape) -> Response<Body> {
    const WHY: &str = "rejected by the lab's fault proxy";
    let (kind, body) = match shape {
        Shape::Json => ("application/x-amz-json-1.0", json!({ "__type": code, "message": WHY }).to_string()),
        Shape::QueryXml => (
            "text/xml",
            format!(
                "<ErrorResponse><Error><Type>Sender</Type><Code>{code}</Code><Message>{WHY}</Message></Error>\
                 <RequestId>lab</RequestId></ErrorResponse>"
            ),
        ),
        Shape::RestXml => {
            ("application/xml", format!("<Error><Code>{code}</Code><Message>{WHY}</Message><RequestId>lab</RequestId></Error>"))
        }
        Shape::Kubernetes => (
            "application/json",
            json!({ "kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": code, "message": WHY, "code": status })
                .to_string(),
        ),
    };
    Response::builder()
        .status(status)
        .header("content-type", kind)
        .header("x-amzn-errortype", code)
        .body(Body::from(body))
        .unwrap_or_default()
}

/// Kept here so that both proxies listen alike.
pub(super) async fn listen() -> Result<(TcpListener, u16)> {
    let failed = || Error::system("listen on 127.0.0.1 for a fault proxy");
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.map_err(failed())?;
    let port = listener.local_addr().map_err(failed())?.port();
    Ok((listener, port))
}

pub(super) async fn connect(port: u16) -> io::Result<TcpStream> {
    TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await
}
