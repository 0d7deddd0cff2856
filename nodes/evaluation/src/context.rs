//! The context of an evaluation: the caller's attributes, the unit, and a receipt that was verified for that unit.
//!
//! It borrows everything. A receipt gets in only by [`Context::open_receipt`], which verifies it against this
//! context's own unit, so no evaluation can honour a receipt that was given to somebody else.

use std::sync::OnceLock;

use prost_types::{Struct, Value, value::Kind};

use crate::limits::MAX_UNIT_BYTES;
use crate::receipt::{Key, Receipt, ReceiptError, VerifiedReceipt};
use crate::unit::UnitKey;

/// The attribute that holds the unit.
pub const TARGETING_KEY_ATTRIBUTE: &str = "targetingKey";

/// The attribute by which a caller sends a receipt back.
pub const RECEIPT_ATTRIBUTE: &str = "featureopsReceipt";

/// What an evaluation knows of its caller.
#[derive(Debug, Clone, Default)]
pub struct Context<'c> {
    attributes: Option<&'c Struct>,
    overlay: Option<&'c Struct>,
    targeting_key: Option<&'c str>,
    receipt: Option<VerifiedReceipt>,
    unit_key: Option<&'c UnitKey>,
    /// Made when a list is first asked about, and kept for all flags: the key's id and the unit's hash.
    hashed: OnceLock<Option<(u64, u64)>>,
}

impl<'c> Context<'c> {
    /// A context without attributes and without a unit.
    #[must_use]
    pub fn empty() -> Self {
        Self::default()
    }

    /// A context over the caller's attributes.
    #[must_use]
    pub fn new(attributes: &'c Struct) -> Self {
        Self { attributes: Some(attributes), ..Self::default() }
    }

    /// The same with another unit than `targetingKey` names. A receipt of the former unit is dropped.
    #[must_use]
    pub fn with_targeting_key(self, targeting_key: &'c str) -> Self {
        Self { targeting_key: Some(targeting_key), receipt: None, hashed: OnceLock::new(), ..self }
    }

    /// The same with the server's own keys, which win over the caller's. They may name another unit, so a receipt is
    /// dropped.
    #[must_use]
    pub fn with_overlay(self, overlay: &'c Struct) -> Self {
        Self { overlay: Some(overlay), receipt: None, hashed: OnceLock::new(), ..self }
    }

    /// The same with the key by which units are hashed. Without it the unit is on no segment's list.
    #[must_use]
    pub fn with_unit_key(self, unit_key: &'c UnitKey) -> Self {
        Self { unit_key: Some(unit_key), hashed: OnceLock::new(), ..self }
    }

    /// The key's id and the unit's hash. A unit that is too long to be on a list has none.
    pub(crate) fn unit_hash(&self) -> Option<(u64, u64)> {
        *self.hashed.get_or_init(|| {
            let unit = self.unit().filter(|unit| unit.len() <= MAX_UNIT_BYTES)?;
            self.unit_key.map(|key| (key.id(), key.hash(unit.as_bytes())))
        })
    }

    /// The unit that stands for `targetingKey`, whatever the attributes say.
    pub(crate) const fn targeting_key(&self) -> Option<&'c str> {
        self.targeting_key
    }

    /// The unit: a non-empty string. A number is not a unit, as in the published `fractional`.
    #[must_use]
    pub fn unit(&self) -> Option<&'c str> {
        let key = match self.targeting_key {
            Some(key) => key,
            None => match &self.field(TARGETING_KEY_ATTRIBUTE)?.kind {
                Some(Kind::StringValue(key)) => key.as_str(),
                _ => return None,
            },
        };
        (!key.is_empty()).then_some(key)
    }

    /// The text of the receipt that the caller sent along, unverified.
    #[must_use]
    pub fn receipt_text(&self) -> Option<&'c str> {
        match &self.field(RECEIPT_ATTRIBUTE)?.kind {
            Some(Kind::StringValue(text)) => Some(text.as_str()),
            _ => None,
        }
    }

    /// Verifies a receipt for this context's unit, and keeps it for the evaluations that follow.
    ///
    /// # Errors
    /// When there is no unit or the receipt does not verify; the context then has no receipt.
    pub fn open_receipt(&mut self, text: &[u8], keys: &[Key]) -> Result<VerifiedReceipt, ReceiptError> {
        self.receipt = None;
        let unit = self.unit().ok_or(ReceiptError::NoUnit)?;
        let receipt = Receipt::open(text, unit.as_bytes(), keys)?;
        self.receipt = Some(receipt);
        Ok(receipt)
    }

    /// The receipt that was verified for this context's unit.
    #[must_use]
    pub const fn receipt(&self) -> Option<&VerifiedReceipt> {
        self.receipt.as_ref()
    }

    /// The attribute of a name, not of a path: the server's own, else the caller's.
    #[must_use]
    pub fn attribute(&self, name: &str) -> Option<&'c Value> {
        self.field(name)
    }

    /// A key at the top: the server's own, else the caller's.
    pub(crate) fn field(&self, key: &str) -> Option<&'c Value> {
        if let Some(overlay) = self.overlay
            && let Some(value) = overlay.fields.get(key)
        {
            return Some(value);
        }
        self.attributes?.fields.get(key)
    }

    /// What stands at a path. Null, and a path through anything but an object, is missing.
    pub(crate) fn look_up(&self, path: &Path) -> Seen<'c> {
        if let (Some(key), TARGETING_KEY_ATTRIBUTE) = (self.targeting_key, path.text.as_ref()) {
            return Seen::Text(key);
        }
        let value = if path.is_one_key { self.field(&path.text) } else { self.descend(&path.text) };
        match value.map(|value| &value.kind) {
            None | Some(None | Some(Kind::NullValue(_))) => Seen::Missing,
            Some(Some(Kind::BoolValue(value))) => Seen::Boolean(*value),
            Some(Some(Kind::NumberValue(value))) => Seen::Number(*value),
            Some(Some(Kind::StringValue(value))) => Seen::Text(value),
            Some(Some(Kind::ListValue(list))) => Seen::List(&list.values),
            Some(Some(Kind::StructValue(_))) => Seen::Object,
        }
    }

    fn descend(&self, path: &str) -> Option<&'c Value> {
        let mut keys = path.split('.');
        let mut value = self.field(keys.next()?)?;
        for key in keys {
            value = match &value.kind {
                Some(Kind::StructValue(object)) => object.fields.get(key)?,
                _ => return None,
            };
        }
        Some(value)
    }
}

/// The path of an attribute: keys joined by dots.
#[derive(Debug)]
pub(crate) struct Path {
    pub(crate) text: Box<str>,
    /// Most are, and need no splitting.
    is_one_key: bool,
}

impl Path {
    pub(crate) fn new(text: &str) -> Self {
        Self { text: text.into(), is_one_key: !text.contains('.') }
    }
}

/// What a condition sees of an attribute.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Seen<'c> {
    Missing,
    Boolean(bool),
    Number(f64),
    Text(&'c str),
    List(&'c [Value]),
    Object,
}

impl Seen<'_> {
    /// For explanations: the caller's own value, cut to 80 characters.
    pub(crate) fn describe(&self) -> String {
        match self {
            Self::Missing => "a missing attribute".to_owned(),
            Self::Boolean(value) => value.to_string(),
            Self::Number(value) => value.to_string(),
            Self::Text(text) => format!("'{}'", text.chars().take(80).collect::<String>()),
            Self::List(values) => format!("a list of {}", values.len()),
            Self::Object => "an object".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn context_of(fields: &[(&str, Value)]) -> Struct {
        Struct { fields: fields.iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect() }
    }

    #[test]
    fn the_unit_is_a_non_empty_string() {
        for (value, unit) in [
            (Value::from("ada"), Some("ada")),
            (Value::from(""), None),
            (Value::from(7.0), None),
            (Value { kind: None }, None),
        ] {
            let attributes = context_of(&[("targetingKey", value)]);
            assert_eq!(Context::new(&attributes).unit(), unit);
            assert_eq!(Context::new(&attributes).with_targeting_key("bob").unit(), Some("bob"));
            assert_eq!(Context::new(&attributes).with_targeting_key("").unit(), None);
        }
        assert_eq!(Context::empty().unit(), None);
    }

    #[test]
    fn the_servers_own_keys_win_over_the_callers() {
        let attributes = context_of(&[("targetingKey", Value::from("ada")), ("plan", Value::from("pro"))]);
        let overlay = context_of(&[("targetingKey", Value::from("bob")), ("region", Value::from("eu"))]);
        let context = Context::new(&attributes).with_overlay(&overlay);
        assert_eq!(context.unit(), Some("bob"));
        assert!(matches!(context.look_up(&Path::new("region")), Seen::Text("eu")));
        assert!(matches!(context.look_up(&Path::new("plan")), Seen::Text("pro")));
        assert_eq!(context.with_targeting_key("eve").unit(), Some("eve"));
        assert_eq!(Context::empty().with_overlay(&overlay).unit(), Some("bob"));
    }

    #[test]
    fn a_path_descends_into_objects_only() {
        let inner =
            Value::from(context_of(&[("plan", Value::from("pro")), ("none", Value { kind: None })]).fields);
        let attributes =
            context_of(&[("account", inner), ("name", Value::from("x")), ("a.b", Value::from(1.0))]);
        let context = Context::new(&attributes);
        assert!(matches!(context.look_up(&Path::new("account.plan")), Seen::Text("pro")));
        assert!(matches!(context.look_up(&Path::new("account")), Seen::Object));
        for missing in ["account.none", "account.plan.x", "name.x", "a.b", "nothing"] {
            assert!(matches!(context.look_up(&Path::new(missing)), Seen::Missing), "{missing}");
        }
    }
}
