//! The lab's own hand in a cluster: plain JSON over HTTPS with every right.
//!
//! Not the adapter's client on purpose: a test that sets the scene with the code under test proves less.

use std::time::Duration;

use reqwest::{Client, Method};
use serde_json::{Value, json};

use crate::error::{Error, Result};
use crate::tls::Authority;

/// Changes a cluster as its administrator.
#[derive(Clone, Debug)]
pub struct Admin {
    client: Client,
    endpoint: String,
    token: String,
}

impl Admin {
    pub(super) fn new(endpoint: &str, token: &str, authority: &Authority) -> Result<Self> {
        let client = Client::builder()
            .tls_backend_preconfigured(authority.client()?)
            .no_proxy()
            .timeout(Duration::from_secs(20))
            .build()
            .map_err(|error| Error::State(format!("cannot make a client for the cluster: {error}")))?;
        Ok(Admin { client, endpoint: endpoint.to_owned(), token: token.to_owned() })
    }

    /// The administrator's bearer token.
    pub fn token(&self) -> &str {
        &self.token
    }

    /// Asks anything; gives status and body.
    pub async fn ask(&self, method: Method, path: &str, form: &str, body: Option<&Value>) -> Result<(u16, Value)> {
        let failed = |error: reqwest::Error| Error::State(format!("the cluster does not answer: {error:?}"));
        let mut request = self.client.request(method, format!("{}{path}", self.endpoint)).bearer_auth(&self.token);
        if let Some(body) = body {
            request = request.header("content-type", form).body(body.to_string());
        }
        let answer = request.send().await.map_err(failed)?;
        let status = answer.status().as_u16();
        let text = answer.text().await.map_err(failed)?;
        Ok((status, serde_json::from_str(&text).unwrap_or(Value::String(text))))
    }

    async fn expect(&self, method: Method, path: &str, form: &str, body: Option<&Value>) -> Result<Value> {
        let named = format!("{method} {path}");
        match self.ask(method, path, form, body).await? {
            (200..=299, answer) => Ok(answer),
            (status, answer) => {
                let said = answer["message"].as_str().map_or_else(|| answer.to_string(), str::to_owned);
                Err(Error::Program { program: named, said: format!("{status}: {said}") })
            }
        }
    }

    /// Reads an object, if it is there.
    pub async fn get(&self, path: &str) -> Result<Option<Value>> {
        match self.ask(Method::GET, path, "", None).await? {
            (404, _) => Ok(None),
            (200, answer) => Ok(Some(answer)),
            (status, answer) => {
                Err(Error::Program { program: format!("GET {path}"), said: format!("{status}: {answer}") })
            }
        }
    }

    /// Lists objects; an empty selector takes all.
    pub async fn list(&self, path: &str, selector: &str) -> Result<Vec<Value>> {
        let query = if selector.is_empty() {
            String::new()
        } else {
            url::form_urlencoded::Serializer::new("?".to_owned()).append_pair("labelSelector", selector).finish()
        };
        let answer = self.expect(Method::GET, &format!("{path}{query}"), "", None).await?;
        Ok(answer["items"].as_array().cloned().unwrap_or_default())
    }

    /// Makes an object in a collection.
    pub async fn create(&self, collection: &str, object: &Value) -> Result<Value> {
        self.expect(Method::POST, collection, "application/json", Some(object)).await
    }

    /// Merges into an object or its subresource (RFC 7396).
    pub async fn merge(&self, path: &str, patch: &Value) -> Result<Value> {
        self.expect(Method::PATCH, path, "application/merge-patch+json", Some(patch)).await
    }

    /// Applies an object as another field manager.
    pub async fn apply(&self, path: &str, manager: &str, object: &Value) -> Result<Value> {
        let path = format!("{path}?fieldManager={manager}&force=true");
        self.expect(Method::PATCH, &path, "application/apply-patch+yaml", Some(object)).await
    }

    /// Deletes an object at once; gone already is success.
    pub async fn delete(&self, path: &str) -> Result<()> {
        match self.ask(Method::DELETE, &format!("{path}?gracePeriodSeconds=0"), "", None).await? {
            (200..=299 | 404, _) => Ok(()),
            (status, answer) => {
                Err(Error::Program { program: format!("DELETE {path}"), said: format!("{status}: {answer}") })
            }
        }
    }

    /// Makes the cluster have this many ready nodes of a managed node group, as when EKS has scaled it.
    pub async fn set_ready_nodes(&self, node_group: &str, ready: u32) -> Result<()> {
        let path = "/api/v1/nodes";
        let selector = format!("eks.amazonaws.com/nodegroup={node_group}");
        for node in self.list(path, &selector).await? {
            let name = node["metadata"]["name"].as_str().unwrap_or_default();
            let number = name.rsplit('-').next().and_then(|number| number.parse::<u32>().ok());
            if number.is_some_and(|number| number >= ready) {
                self.delete(&format!("{path}/{name}")).await?;
            }
        }
        for number in 0..ready {
            let name = format!("{node_group}-{number}");
            if self.get(&format!("{path}/{name}")).await?.is_some() {
                continue;
            }
            let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": {"eks.amazonaws.com/nodegroup": node_group}}});
            self.create(path, &node).await?;
            let status =
                json!({"status": {"conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady"}]}});
            self.merge(&format!("{path}/{name}/status"), &status).await?;
            // A real server taints new nodes until a controller has looked at them.
            self.merge(&format!("{path}/{name}"), &json!({"spec": {"taints": null}})).await?;
        }
        Ok(())
    }
}
