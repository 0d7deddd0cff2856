//! Reading a document: JSON within bounds, and what JSON's own readers keep silent about.
//!
//! Of two equal keys in an object the later counts, as with every reader in the field; here it is also noted, because
//! the author meant both. Depth is bounded by the reader itself, 128 levels; the count of values before they are built.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use crate::limits;
use crate::refusal::{Outcome, refused};

/// A path in a document, as `flags.checkout.variants.on`. It ends where a longer one begins.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Path<'p> {
    Root(&'p str),
    Key(&'p Path<'p>, &'p str),
    Index(&'p Path<'p>, usize),
}

impl Path<'_> {
    pub(crate) const fn key<'p>(&'p self, key: &'p str) -> Path<'p> {
        Path::Key(self, key)
    }

    pub(crate) const fn index(&self, index: usize) -> Path<'_> {
        Path::Index(self, index)
    }
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Root(name) => f.write_str(name),
            Self::Key(Self::Root(""), key) => write_key(f, key),
            Self::Key(parent, key) => {
                write!(f, "{parent}.")?;
                write_key(f, key)
            }
            Self::Index(parent, index) => write!(f, "{parent}[{index}]"),
        }
    }
}

/// A key of a foreign document may be as long as the document.
fn write_key(f: &mut fmt::Formatter<'_>, key: &str) -> fmt::Result {
    key.chars().take(80).try_for_each(|c| fmt::Write::write_char(f, c))
}

/// What a document says, and the paths of keys that it says twice.
pub(crate) struct Document {
    pub(crate) root: Map<String, Value>,
    pub(crate) duplicates: Vec<String>,
}

/// Reads a document.
pub(crate) fn read(text: &str) -> Outcome<Document> {
    let max = limits::MAX_DOCUMENT_BYTES;
    if text.len() > max {
        return refused(
            "document",
            text.len(),
            format_args!("at most {max} bytes; split it into environments"),
        );
    }
    let mut reader = Reader::default();
    let mut json = serde_json::Deserializer::from_str(text);
    let read = Place { reader: &mut reader, path: Path::Root("") }
        .deserialize(&mut json)
        .and_then(|root| json.end().map(|()| root));
    match read {
        Ok(Value::Object(root)) => Ok(Document { root, duplicates: reader.duplicates }),
        Ok(_) => refused("document", "no object", "a flagd document is an object: write {\"flags\": {}}"),
        Err(error) => {
            let place = format!("line {}, column {}", error.line(), error.column());
            let said = error.to_string();
            let reason = said.split(" at line ").next().unwrap_or_default();
            refused("document", place, format_args!("not readable as JSON: {reason}; nothing was changed"))
        }
    }
}

#[derive(Default)]
struct Reader {
    duplicates: Vec<String>,
    values: usize,
}

/// A place in the document that is about to be read.
struct Place<'r, 'p> {
    reader: &'r mut Reader,
    path: Path<'p>,
}

impl<'de> DeserializeSeed<'de> for Place<'_, '_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        self.reader.values += 1;
        if self.reader.values > limits::MAX_DOCUMENT_VALUES {
            let max = limits::MAX_DOCUMENT_VALUES;
            return Err(D::Error::custom(format_args!("more than {max} values; split it into environments")));
        }
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Place<'_, '_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        Number::from_f64(value).map(Value::Number).ok_or_else(|| E::custom("number out of range"))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E: Error>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Value, A::Error> {
        let mut values = Vec::new();
        loop {
            let place = Place { reader: &mut *self.reader, path: self.path.index(values.len()) };
            match sequence.next_element_seed(place)? {
                Some(value) => values.push(value),
                None => return Ok(Value::Array(values)),
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut object = Map::new();
        while let Some(key) = entries.next_key::<String>()? {
            let path = self.path.key(&key);
            if object.contains_key(&key) && self.reader.duplicates.len() <= limits::MAX_WARNINGS {
                self.reader.duplicates.push(path.to_string());
            }
            let value = entries.next_value_seed(Place { reader: &mut *self.reader, path })?;
            object.insert(key, value);
        }
        Ok(Value::Object(object))
    }
}
