//! Recovery objectives: how long a service may be away, and how much of its data may be lost.

use std::{fmt, time::Duration};

use serde::{Deserialize, Serialize};

/// A length of time that people write: `15 min`, `1 h`, `2 h 30 min`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(pub Duration);

impl Span {
    /// The length in seconds, the unit of everything that crosses a border.
    pub fn seconds(self) -> f64 {
        self.0.as_secs_f64()
    }
}

impl TryFrom<String> for Span {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse::<jiff::SignedDuration>()
            .ok()
            .and_then(|d| Duration::try_from(d).ok())
            .map(Span)
            .ok_or_else(|| format!("`{text}` is not a length of time; write for example \"15 min\" or \"1 h\""))
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&human_seconds(self.seconds()))
    }
}

impl From<Span> for String {
    fn from(span: Span) -> String {
        let whole = span.0.as_millis();
        if whole.is_multiple_of(3_600_000) {
            format!("{} h", whole / 3_600_000)
        } else if whole.is_multiple_of(60_000) {
            format!("{} min", whole / 60_000)
        } else {
            format!("{whole} ms")
        }
    }
}

impl Serialize for Span {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&String::from(*self))
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Span::try_from(String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

/// Seconds as a person reads them: `0.21 s`, `4 min 5 s`, `2 h`.
pub fn human_seconds(seconds: f64) -> String {
    if !seconds.is_finite() {
        return "unknown".to_owned();
    }
    if seconds < 0.0 {
        return format!("-{}", human_seconds(-seconds));
    }
    if seconds < 10.0 {
        return format!("{} s", trim_zeros(&format!("{seconds:.2}")));
    }
    if seconds < 60.0 {
        return format!("{} s", trim_zeros(&format!("{seconds:.1}")));
    }
    let whole = seconds.round() as u64;
    let parts = [(whole / 3600, "h"), (whole % 3600 / 60, "min"), (whole % 60, "s")];
    let text: Vec<String> = parts.iter().filter(|(n, _)| *n > 0).map(|(n, unit)| format!("{n} {unit}")).collect();
    text.join(" ")
}

fn trim_zeros(number: &str) -> &str {
    if number.contains('.') { number.trim_end_matches('0').trim_end_matches('.') } else { number }
}

/// How urgent a service is; the first letter of a page at night.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Priority {
    /// Wake people up.
    P0,
    /// Wake the person on call.
    P1,
    /// Working hours.
    P2,
}

/// How much data a service may lose.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum RecoveryPoint {
    /// At most this much time of writes.
    Within(Span),
    /// Nothing at all ("real-time").
    RealTime,
    /// It holds nothing that is not elsewhere: rebuilt from its source.
    Rebuilt,
}

impl RecoveryPoint {
    /// The objective in seconds; `None` where there is nothing to lose.
    pub fn seconds(self) -> Option<f64> {
        match self {
            RecoveryPoint::Within(span) => Some(span.seconds()),
            RecoveryPoint::RealTime => Some(0.0),
            RecoveryPoint::Rebuilt => None,
        }
    }
}

impl fmt::Display for RecoveryPoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RecoveryPoint::Within(span) => span.fmt(f),
            RecoveryPoint::RealTime => f.write_str("real-time"),
            RecoveryPoint::Rebuilt => f.write_str("rebuilt"),
        }
    }
}

impl Serialize for RecoveryPoint {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            RecoveryPoint::Within(span) => span.serialize(serializer),
            other => serializer.serialize_str(&other.to_string()),
        }
    }
}

impl<'de> Deserialize<'de> for RecoveryPoint {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        match text.as_str() {
            "real-time" => Ok(RecoveryPoint::RealTime),
            "rebuilt" => Ok(RecoveryPoint::Rebuilt),
            _ => Span::try_from(text)
                .map(RecoveryPoint::Within)
                .map_err(|error| serde::de::Error::custom(format!("{error}, or \"real-time\" or \"rebuilt\""))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_of_time_are_read_as_people_write_them() {
        for (text, seconds) in [("15 min", 900.0), ("1 h", 3600.0), ("2 h 30 min", 9000.0), ("500 ms", 0.5)] {
            assert_eq!(Span::try_from(text.to_owned()).unwrap().seconds(), seconds, "{text}");
        }
        for text in ["", "soon", "-5 min", "5"] {
            assert!(Span::try_from(text.to_owned()).is_err(), "{text}");
        }
    }

    #[test]
    fn seconds_are_shown_without_needless_digits() {
        for (seconds, text) in [(0.214, "0.21 s"), (12.0, "12 s"), (90.0, "1 min 30 s"), (7200.0, "2 h"), (0.0, "0 s")]
        {
            assert_eq!(human_seconds(seconds), text);
        }
    }
}
