//! Topics of the tertiary region, one per priority; who is behind them is subscribed beforehand.

use std::collections::HashMap;

use async_trait::async_trait;
use aws_sdk_sns::{Client, types::MessageAttributeValue};
use recovery::{
    notice::{Messenger, Notice, NoticeError},
    objective::Priority,
    plan::Level,
};

use crate::trouble::Trouble;

/// The topics of a plan.
#[derive(Clone, Debug)]
pub struct Topics {
    client: Client,
    arns: HashMap<Priority, String>,
}

impl Topics {
    /// The topics of these levels behind a client of the tertiary region.
    pub fn new(client: Client, levels: &[Level]) -> Topics {
        Topics { client, arns: levels.iter().map(|level| (level.priority, level.topic_arn.clone())).collect() }
    }
}

#[async_trait]
impl Messenger for Topics {
    async fn send(&self, priority: Priority, notice: &Notice) -> Result<String, NoticeError> {
        let topic = self.arns.get(&priority).ok_or(NoticeError::Nobody(priority))?;
        let failed = |trouble: Trouble| NoticeError::Channel { topic: topic.clone(), source: trouble.boxed() };
        // Subscriptions filter by it: a pager takes P0 only.
        let attribute = MessageAttributeValue::builder()
            .data_type("String")
            .string_value(format!("{priority:?}"))
            .build()
            .map_err(|error| failed(Trouble::unexpected(error.to_string())))?;
        let request = self
            .client
            .publish()
            .topic_arn(topic)
            .subject(&notice.subject)
            .message(&notice.body)
            .message_attributes("priority", attribute);
        let answer = request.send().await.map_err(|error| failed(error.into()))?;
        Ok(answer.message_id().unwrap_or_default().to_owned())
    }
}
