//! What S3 measures of a replication rule: the lag where the copy is, and failures where the source is.
//! <https://docs.aws.amazon.com/AmazonS3/latest/userguide/repl-metrics.html>

use async_trait::async_trait;
use jiff::Timestamp;
use recovery::replication::{Measured, MeterError, ReplicationMeter};
use roxmltree::Node;

use crate::{
    signed::{Signed, members, parsed, text},
    trouble::Trouble,
};

const NAMESPACE: &str = "AWS/S3";
/// S3 writes a value a minute.
const PERIOD_SECONDS: u32 = 60;
const LATENCY: &str = "ReplicationLatency";
const BYTES_PENDING: &str = "BytesPendingReplication";
const OPERATIONS_PENDING: &str = "OperationsPendingReplication";
const OPERATIONS_FAILED: &str = "OperationsFailedReplication";

/// A replication rule, and whom it copies from and to.
#[derive(Clone, Debug)]
pub struct Rule {
    /// The bucket that is replicated.
    pub source: String,
    /// Its copy.
    pub copy: String,
    /// The rule's id.
    pub id: String,
}

/// The metrics of a rule.
#[derive(Clone, Debug)]
pub struct RuleMetrics {
    source: Signed,
    copy: Signed,
    rule: Rule,
}

/// Values of one metric by their moments.
type Values = Vec<(Timestamp, f64)>;

impl RuleMetrics {
    /// CloudWatch of the source's region, and of the copy's.
    pub(crate) fn new(source: Signed, copy: Signed, rule: Rule) -> RuleMetrics {
        RuleMetrics { source, copy, rule }
    }

    async fn values(
        &self,
        client: &Signed,
        metrics: &[(&str, &str)],
        (from, to): (Timestamp, Timestamp),
    ) -> Result<Vec<Values>, MeterError> {
        let failed = |trouble: Trouble| MeterError { region: client.region().to_owned(), source: trouble.boxed() };
        // The end is not part of it, and the minute that is not over is.
        let (from, to) = (from.as_second(), to.as_second() + i64::from(PERIOD_SECONDS));
        let moment = |second| Timestamp::from_second(second).unwrap_or(Timestamp::MAX).to_string();
        let mut form = vec![("StartTime".to_owned(), moment(from)), ("EndTime".to_owned(), moment(to))];
        for (index, (metric, statistic)) in metrics.iter().enumerate() {
            let query = format!("MetricDataQueries.member.{}", index + 1);
            let mut set = |name: &str, value: &str| form.push((format!("{query}.{name}"), value.to_owned()));
            set("Id", &id(index));
            set("MetricStat.Metric.Namespace", NAMESPACE);
            set("MetricStat.Metric.MetricName", metric);
            set("MetricStat.Period", &PERIOD_SECONDS.to_string());
            set("MetricStat.Stat", statistic);
            let Rule { source, copy, id } = &self.rule;
            for (place, (name, value)) in
                [("SourceBucket", source), ("DestinationBucket", copy), ("RuleId", id)].into_iter().enumerate()
            {
                let dimension = format!("MetricStat.Metric.Dimensions.member.{}", place + 1);
                set(&format!("{dimension}.Name"), name);
                set(&format!("{dimension}.Value"), value);
            }
        }
        let answer = client.call("GetMetricData", &form).await.map_err(failed)?;
        let document = parsed("CloudWatch", &answer).map_err(failed)?;
        let mut values = vec![Values::new(); metrics.len()];
        for result in document.root().descendants().filter(|node| node.tag_name().name() == "MetricDataResults") {
            for result in result.children().filter(|node| node.tag_name().name() == "member") {
                let of = (0..metrics.len()).find(|index| text(result, "Id").is_some_and(|text| text == id(*index)));
                let Some(found) = of.and_then(|of| values.get_mut(of)) else { continue };
                found.extend(series(result));
                found.sort_by_key(|(at, _)| *at);
            }
        }
        Ok(values)
    }
}

/// Ids begin with a small letter.
fn id(index: usize) -> String {
    format!("m{index}")
}

fn series<'a>(result: Node<'a, 'a>) -> impl Iterator<Item = (Timestamp, f64)> {
    let moments = members(result, "Timestamps").map(|node| node.text()?.parse().ok());
    let values = members(result, "Values").map(|node| node.text()?.parse().ok());
    moments.zip(values).filter_map(|(at, value)| at.zip(value))
}

#[async_trait]
impl ReplicationMeter for RuleMetrics {
    async fn measured(&self, from: Timestamp, to: Timestamp) -> Result<Measured, MeterError> {
        let lag = [(LATENCY, "Maximum"), (BYTES_PENDING, "Maximum"), (OPERATIONS_PENDING, "Maximum")];
        let lag = self.values(&self.copy, &lag, (from, to)).await?;
        let failed = self.values(&self.source, &[(OPERATIONS_FAILED, "Sum")], (from, to)).await?;
        let of = |values: &[Values], index: usize| values.get(index).cloned().unwrap_or_default();
        let last = |values: Values| values.last().map(|(_, value)| *value);
        let failed = of(&failed, 0);
        Ok(Measured {
            latency_seconds: of(&lag, 0).into_iter().map(|(_, value)| value).reduce(f64::max),
            bytes_pending: last(of(&lag, 1)),
            operations_pending: last(of(&lag, 2)),
            operations_failed: (!failed.is_empty()).then(|| failed.iter().map(|(_, value)| value).sum()),
        })
    }
}
