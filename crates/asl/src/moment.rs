//! Moments in the form that Step Functions takes: RFC 3339 with a capital `T` and `Z` or a numeric offset.

use jiff::Timestamp;

/// The moment a text names; `None` without an offset, without `T`, or when it is not a date.
pub(crate) fn parse(text: &str) -> Option<Timestamp> {
    let bytes = text.as_bytes();
    // jiff is more generous than Step Functions: it takes spaces, lower case and `[Zone/Names]`.
    let shape = bytes.len() >= 20
        && bytes.iter().enumerate().take(19).all(|(index, byte)| match index {
            4 | 7 => *byte == b'-',
            10 => *byte == b'T',
            13 | 16 => *byte == b':',
            _ => byte.is_ascii_digit(),
        });
    if !shape {
        return None;
    }
    let mut rest = &text[19..];
    if let Some(fraction) = rest.strip_prefix('.') {
        let digits = fraction.bytes().take_while(u8::is_ascii_digit).count();
        if digits == 0 || digits > 9 {
            return None;
        }
        rest = &fraction[digits..];
    }
    let offset = rest == "Z" || (rest.len() == 6 && rest.starts_with(['+', '-']) && rest.as_bytes()[3] == b':');
    if !offset {
        return None;
    }
    text.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_extended_offset_date_times_are_moments() {
        for good in [
            "2016-03-14T01:59:00Z",
            "2016-03-14T01:59:00.123Z",
            "2016-03-14T01:59:00+02:00",
            "2016-03-14T01:59:00.123456789-11:30",
        ] {
            assert!(parse(good).is_some(), "{good}");
        }
        for bad in [
            "2016-12-05T21:29:29",
            "05-12-2016T21:29:29Z",
            "2016-03-14 01:59:00Z",
            "2016-03-14T01:59:00z",
            "2016-03-14T01:59Z",
            "2016-13-14T01:59:00Z",
            "",
            "2016-03-14T01:59:00.Z",
            "2016-03-14T01:59:00Z[UTC]",
        ] {
            assert!(parse(bad).is_none(), "{bad}");
        }
    }
}
