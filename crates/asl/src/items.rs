//! The items of a distributed Map as its `ItemReader` finds them in objects.
//! <https://docs.aws.amazon.com/step-functions/latest/dg/input-output-itemreader.html>

use serde_json::{Map, Value};

use crate::definition::{Format, Headers};

/// What one answer of the storage gave.
#[derive(Debug)]
pub(crate) struct Page {
    pub(crate) items: Vec<Value>,
    /// The token of the next page of a listing.
    pub(crate) next: Option<String>,
}

/// The items in the answer to `s3:getObject` or `s3:listObjectsV2`; an error is the cause of `States.ItemReaderFailed`.
pub(crate) fn read(format: &Format, answer: &Value) -> Result<Page, String> {
    if let Format::Listing = format {
        let items = answer["Contents"].as_array().cloned().unwrap_or_default();
        let next = answer["NextContinuationToken"].as_str().map(str::to_owned);
        return Ok(Page { items, next });
    }
    let body = match &answer["Body"] {
        Value::String(text) => text.as_str(),
        _ => return Err("the object has no text in its `Body`".to_owned()),
    };
    let items = match format {
        Format::Json { pointer } => {
            let document: Value =
                serde_json::from_str(body).map_err(|error| format!("the object is not JSON: {error}"))?;
            let found = pointer.as_deref().map_or(Some(&document), |pointer| document.pointer(pointer));
            match found {
                Some(Value::Array(items)) => items.clone(),
                _ => return Err("Attempting to map over non-iterable node.".to_owned()),
            }
        }
        Format::JsonLines => body
            .lines()
            .filter(|line| !line.trim().is_empty())
            .map(|line| {
                serde_json::from_str(line).map_err(|error| format!("a line of the object is not JSON: {error}"))
            })
            .collect::<Result<_, _>>()?,
        Format::Csv { delimiter, headers } => rows(body, *delimiter, headers)?,
        Format::Elsewhere(name) => return Err(format!("input of type {name} is read by Step Functions only")),
        Format::Listing => Vec::new(),
    };
    Ok(Page { items, next: None })
}

/// Rows as objects by header. A row may be short, then the rest is empty; what goes beyond the headers is left out.
fn rows(body: &str, delimiter: char, headers: &Headers) -> Result<Vec<Value>, String> {
    let mut records = records(body, delimiter).into_iter();
    let names = match headers {
        Headers::FirstRow => records.next().unwrap_or_default(),
        Headers::Given(names) => names.clone(),
    };
    for (index, name) in names.iter().enumerate() {
        if names[..index].contains(name) {
            return Err("CSV headers cannot contain duplicates.".to_owned());
        }
    }
    let row = |fields: Vec<String>| {
        let mut fields = fields.into_iter();
        let members = names.iter().map(|name| (name.clone(), fields.next().unwrap_or_default().into()));
        Value::Object(members.collect::<Map<_, _>>())
    };
    Ok(records.map(row).collect())
}

/// Records and fields of RFC 4180: fields may be quoted, two quotes inside are one. Empty lines are not records.
fn records(body: &str, delimiter: char) -> Vec<Vec<String>> {
    let mut records = Vec::new();
    let (mut record, mut field) = (Vec::new(), String::new());
    let (mut quoted, mut was_quoted) = (false, false);
    let mut letters = body.trim_start_matches('\u{feff}').chars().peekable();
    while let Some(letter) = letters.next() {
        match letter {
            '"' if quoted && letters.peek() == Some(&'"') => {
                letters.next();
                field.push('"');
            }
            '"' if quoted => quoted = false,
            '"' if field.is_empty() && !was_quoted => (quoted, was_quoted) = (true, true),
            '\r' if !quoted && letters.peek() == Some(&'\n') => {}
            '\n' if !quoted => {
                if !record.is_empty() || !field.is_empty() || was_quoted {
                    record.push(std::mem::take(&mut field));
                    records.push(std::mem::take(&mut record));
                }
                was_quoted = false;
            }
            letter if letter == delimiter && !quoted => {
                record.push(std::mem::take(&mut field));
                was_quoted = false;
            }
            letter => field.push(letter),
        }
    }
    if !record.is_empty() || !field.is_empty() || was_quoted {
        record.push(field);
        records.push(record);
    }
    records
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn items(format: &Format, body: &str) -> Result<Value, String> {
        read(format, &json!({"Body": body})).map(|page| Value::Array(page.items))
    }

    #[test]
    fn a_table_is_read_by_its_headers() {
        let first = Format::Csv { delimiter: ',', headers: Headers::FirstRow };
        assert_eq!(
            items(&first, "a,b\r\n1,\"x, \"\"y\"\"\nz\"\n\n2\n3,4,5").unwrap(),
            json!([{"a": "1", "b": "x, \"y\"\nz"}, {"a": "2", "b": ""}, {"a": "3", "b": "4"}])
        );
        let given = Format::Csv { delimiter: '|', headers: Headers::Given(vec!["k".to_owned()]) };
        assert_eq!(items(&given, "1|2\n\"\"|3\n").unwrap(), json!([{"k": "1"}, {"k": ""}]));
        assert_eq!(items(&first, "a,a\n1,2").unwrap_err(), "CSV headers cannot contain duplicates.");
    }

    #[test]
    fn documents_and_lines_are_read_as_lists() {
        assert_eq!(items(&Format::Json { pointer: None }, "[1, {}]").unwrap(), json!([1, {}]));
        let inner = Format::Json { pointer: Some("/a/b".to_owned()) };
        assert_eq!(items(&inner, r#"{"a": {"b": [2]}}"#).unwrap(), json!([2]));
        let not_a_list = "Attempting to map over non-iterable node.";
        assert_eq!(items(&inner, r#"{"a": 1}"#).unwrap_err(), not_a_list);
        assert_eq!(items(&Format::Json { pointer: None }, "{}").unwrap_err(), not_a_list);
        assert_eq!(items(&Format::JsonLines, "{\"a\":1}\n\n[2]\n").unwrap(), json!([{"a": 1}, [2]]));
        assert!(items(&Format::JsonLines, "{").is_err());
        assert!(items(&Format::Elsewhere("PARQUET"), "PAR1").unwrap_err().contains("PARQUET"));
        assert!(read(&Format::JsonLines, &json!({})).is_err());
    }

    #[test]
    fn a_listing_has_pages() {
        let page =
            read(&Format::Listing, &json!({"Contents": [{"Key": "a"}], "NextContinuationToken": "more"})).unwrap();
        assert_eq!((page.items, page.next.as_deref()), (vec![json!({"Key": "a"})], Some("more")));
    }
}
