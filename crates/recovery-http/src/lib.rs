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
