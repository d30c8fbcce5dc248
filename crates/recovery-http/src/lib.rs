//! Asks services as a customer would: one GET, no redirects, no proxy, no kept connection, a bound on the answer.
//!
//! A kept connection would hide a name that has moved, so every question connects again.

use std::time::{Duration, Instant};

use async_trait::async_trait;
use jiff::Timestamp;
use recovery::names::{Answer, Prober};
use url::Url;

/// Says which region served an answer.
pub const SERVED_BY: &str = "x-served-by-region";

/// Most bytes of an answer that are read; a health answer is a line.
const BODY_LIMIT: usize = 64 * 1024;

/// Asks over HTTP.
#[derive(Clone, Debug)]
pub struct HttpProber {
    client: reqwest::Client,
}

impl HttpProber {
    /// A prober that verifies servers against the machine's certificate authorities.
    ///
    /// # Errors
    /// TLS cannot be set up.
    pub fn new() -> Result<HttpProber, reqwest::Error> {
        let client = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .pool_max_idle_per_host(0)
            .no_proxy()
            .user_agent("sparc-recovery")
            .build()?;
        Ok(HttpProber { client })
    }

    async fn get(&self, url: &Url, within: Duration) -> Result<(u16, Option<String>), reqwest::Error> {
        let mut response = self.client.get(url.clone()).timeout(within).send().await?;
        let region = response.headers().get(SERVED_BY).and_then(|value| value.to_str().ok()).map(str::to_owned);
        // An answer is an answer only once it has arrived.
        let mut read = 0;
        while let Some(chunk) = response.chunk().await? {
            read += chunk.len();
            if read > BODY_LIMIT {
                break;
            }
        }
        Ok((response.status().as_u16(), region))
    }
}

#[async_trait]
impl Prober for HttpProber {
    async fn ask(&self, url: &Url, within: Duration) -> Answer {
        let began = Instant::now();
        let got = self.get(url, within).await;
        let observed_at = Timestamp::now();
        let took_seconds = began.elapsed().as_secs_f64();
        match got {
            Ok((status, region)) => Answer { observed_at, status: Some(status), took_seconds, region, error: None },
            Err(error) => {
                let why = if error.is_timeout() {
                    "no answer in time".to_owned()
                } else {
                    recovery::fault::chain(&error.without_url())
                };
                Answer { observed_at, status: None, took_seconds, region: None, error: Some(why) }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use axum::{
        Router,
        body::Body,
        http::{Response, StatusCode},
        routing::get,
    };

    use super::*;

    async fn service() -> Url {
        let respond = |status: u16| Response::builder().status(StatusCode::from_u16(status).unwrap());
        let app = Router::new()
            .route(
                "/well",
                get(move || async move { respond(200).header(SERVED_BY, "us-west-2").body(Body::from("ok")).unwrap() }),
            )
            .route("/ill", get(move || async move { respond(503).body(Body::empty()).unwrap() }))
            .route(
                "/moved",
                get(move || async move { respond(302).header("location", "/well").body(Body::empty()).unwrap() }),
            )
            .route("/hangs", get(|| async { pending::<()>().await }))
            .route(
                "/endless",
                get(move || async move { respond(200).body(Body::from(vec![b'x'; 10 * BODY_LIMIT])).unwrap() }),
            );
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = Url::parse(&format!("http://{}/", listener.local_addr().unwrap())).unwrap();
        tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        url
    }

    #[tokio::test]
    async fn an_answer_is_what_the_service_itself_said() {
        let service = service().await;
        let prober = HttpProber::new().unwrap();
        let situations = [
            ("well", Some(200), true, Some("us-west-2")),
            ("ill", Some(503), false, None),
            ("moved", Some(302), false, None),
            ("hangs", None, false, None),
            ("endless", Some(200), true, None),
        ];
        for (path, status, healthy, region) in situations {
            let answer = prober.ask(&service.join(path).unwrap(), Duration::from_millis(500)).await;
            assert_eq!((answer.status, answer.is_healthy()), (status, healthy), "{path}: {answer:?}");
            assert_eq!(answer.region.as_deref(), region, "{path}");
            assert_eq!(answer.error.is_some(), status.is_none(), "{path}");
        }
    }

    #[tokio::test]
    async fn nobody_there_is_an_answer_too() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = Url::parse(&format!("http://{}/", listener.local_addr().unwrap())).unwrap();
        drop(listener);
        let answer = HttpProber::new().unwrap().ask(&url, Duration::from_secs(2)).await;
        assert_eq!(answer.status, None);
        assert!(answer.error.unwrap().contains("refused"));
    }
}
