//! The text of a targeting rule, as typed on a command line, into the rule the server compiles.
//!
//! ```text
//! rule       = [ id ":" ] ( "always" | condition { "and" condition } ) "->" serve
//! condition  = attribute operator value
//!            | attribute [ "not" ] "in" "[" value { "," value } "]"
//!            | attribute [ "not" ] "exists"
//!            | [ "not" ] "in-segment" "(" segment { "," segment } ")"
//! operator   = "=" | "==" | "!=" | "<" | "<=" | ">" | ">=" | "starts_with" | "ends_with" | "contains"
//! value      = "text" | 'text' | number | true | false
//! serve      = variant | ( "split" | "sticky" ) variant "=" weight { "," variant "=" weight }
//!            | "ramp" variant "from" [ weight "at" ] time "to" [ weight "at" ] time [ "else" variant ]
//! weight     = basis points, or a percentage as 12.5%
//! time       = "2026-12-01T08:00:00Z", or unix seconds
//! ```
//!
//! There is no `or`: rules are tried in order, so an alternative is another rule. Text is quoted, always: `DE` and
//! `true` and `10` without quotes would otherwise mean different things by accident. Every error points to a character.

mod ramp;

use std::fmt;

use featureops_evaluation::limits::{MAX_CONDITIONS, MAX_SPLIT, MAX_VALUES};
use featureops_proto::v1;
use featureops_proto::v1::condition::Operator;
use prost_types::value::Kind;

use super::render::basis_points_of_percent;

/// Longest rule text.
pub const MAX_RULE_BYTES: usize = 16 * 1024;

/// What is wrong, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuleError {
    pub text: String,
    /// Byte offset into `text`.
    pub at: usize,
    pub message: String,
}

impl fmt::Display for RuleError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Long rules are shown around the fault only.
        let characters: Vec<char> = self.text.chars().collect();
        let column = self.text.get(..self.at).map_or(characters.len(), |before| before.chars().count());
        let start = column.saturating_sub(60);
        let shown: String =
            characters.iter().skip(start).take(100).map(|c| if c.is_control() { ' ' } else { *c }).collect();
        write!(f, "{}\n  {shown}\n  {}^", self.message, " ".repeat(column.saturating_sub(start)))
    }
}

impl std::error::Error for RuleError {}

#[derive(Debug, Clone, PartialEq)]
enum Token {
    Word(String),
    Text(String),
    Number(f64),
    Percent(f64),
    Symbol(&'static str),
    End,
}

#[derive(Debug, Clone)]
struct Placed {
    token: Token,
    at: usize,
}

/// As [`parse_named_rule`]; `default_id` names it unless the text does.
#[cfg(test)]
pub fn parse_rule(text: &str, default_id: &str) -> Result<v1::Rule, RuleError> {
    parse_named_rule(text)
        .map(|(id, rule)| v1::Rule { id: id.unwrap_or_else(|| default_id.to_owned()), ..rule })
}

/// Parses one rule: the id that the text names it by, if it does, and the rule without it.
///
/// # Errors
/// With the place of the first character that cannot be read.
pub fn parse_named_rule(text: &str) -> Result<(Option<String>, v1::Rule), RuleError> {
    if text.len() > MAX_RULE_BYTES {
        return Err(RuleError {
            text: text.chars().take(60).collect(),
            at: 0,
            message: format!("a rule has at most {MAX_RULE_BYTES} bytes; use --file for longer ones"),
        });
    }
    let mut parser = Parser { text, tokens: tokens(text)?, next: 0 };
    let id = parser.id();
    let conditions = parser.conditions()?;
    parser.symbol("->", "'->' and what to serve, as: country = \"DE\" -> on")?;
    let serve = parser.serve()?;
    match parser.peek().token {
        Token::End => Ok((id, v1::Rule { id: String::new(), conditions, serve: Some(serve) })),
        _ => Err(parser.error("nothing may follow; another rule is another --rule")),
    }
}

/// Parses the conditions of one clause, without what is served: `country = "DE" and plan = "pro"`.
///
/// # Errors
/// With the place of the first character that cannot be read.
pub fn parse_clause(text: &str) -> Result<Vec<v1::Condition>, RuleError> {
    if text.len() > MAX_RULE_BYTES {
        return Err(RuleError {
            text: text.chars().take(60).collect(),
            at: 0,
            message: format!("a clause has at most {MAX_RULE_BYTES} bytes; use --file for longer ones"),
        });
    }
    let mut parser = Parser { text, tokens: tokens(text)?, next: 0 };
    let conditions = parser.conditions()?;
    match parser.peek().token {
        Token::End if conditions.is_empty() => Err(parser.error("a clause has at least one condition")),
        Token::End => Ok(conditions),
        _ => Err(parser.error("conditions are joined by 'and'; nothing else follows them")),
    }
}

fn tokens(text: &str) -> Result<Vec<Placed>, RuleError> {
    let fault =
        |at: usize, message: &str| RuleError { text: text.to_owned(), at, message: message.to_owned() };
    let mut found = Vec::new();
    let mut characters = text.char_indices().peekable();
    while let Some((at, c)) = characters.next() {
        let followed = |characters: &mut std::iter::Peekable<std::str::CharIndices<'_>>, wanted: char| {
            characters.next_if(|(_, next)| *next == wanted).is_some()
        };
        let token = match c {
            _ if c.is_whitespace() => continue,
            '[' => Token::Symbol("["),
            ']' => Token::Symbol("]"),
            ',' => Token::Symbol(","),
            ':' => Token::Symbol(":"),
            '=' => {
                // `=` and `==` mean the same, whichever language the hand is used to.
                let _ = followed(&mut characters, '=');
                Token::Symbol("=")
            }
            '!' if followed(&mut characters, '=') => Token::Symbol("!="),
            '<' => Token::Symbol(if followed(&mut characters, '=') { "<=" } else { "<" }),
            '>' => Token::Symbol(if followed(&mut characters, '=') { ">=" } else { ">" }),
            '-' if followed(&mut characters, '>') => Token::Symbol("->"),
            '"' | '\'' => {
                let mut value = String::new();
                loop {
                    match characters.next() {
                        Some((_, end)) if end == c => break,
                        Some((place, '\\')) => match characters.next() {
                            Some((_, escaped @ ('"' | '\'' | '\\'))) => value.push(escaped),
                            Some((_, 'n')) => value.push('\n'),
                            Some((_, 't')) => value.push('\t'),
                            _ => return Err(fault(place, "an escape is one of \\\" \\' \\\\ \\n \\t")),
                        },
                        Some((_, other)) => value.push(other),
                        None => return Err(fault(at, "this text is not closed by the same quote")),
                    }
                }
                Token::Text(value)
            }
            _ if c.is_ascii_digit() || c == '-' || c == '+' => {
                let mut digits = String::from(c);
                while let Some((_, next)) =
                    characters.next_if(|(_, n)| n.is_ascii_alphanumeric() || matches!(n, '.' | '_'))
                {
                    digits.push(next);
                    // The sign of an exponent belongs to the number.
                    if matches!(next, 'e' | 'E')
                        && let Some((_, sign)) = characters.next_if(|(_, n)| matches!(n, '+' | '-'))
                    {
                        digits.push(sign);
                    }
                }
                match digits.parse::<f64>() {
                    Ok(number) if number.is_finite() => {
                        if followed(&mut characters, '%') {
                            Token::Percent(number)
                        } else {
                            Token::Number(number)
                        }
                    }
                    // A variant or attribute may begin with a digit: 50off.
                    _ if c.is_ascii_digit() => Token::Word(word(digits, &mut characters)),
                    _ => return Err(fault(at, "this is not a finite number")),
                }
            }
            _ if c.is_alphabetic() || matches!(c, '_' | '$' | '/') => {
                Token::Word(word(String::from(c), &mut characters))
            }
            // Nothing else stands in parentheses.
            '(' if found.last().is_some_and(|last: &Placed| last.token == in_segment()) => Token::Symbol("("),
            ')' if found.iter().rev().any(|earlier: &Placed| earlier.token == Token::Symbol("(")) => {
                Token::Symbol(")")
            }
            '(' | ')' => {
                return Err(fault(
                    at,
                    "rules have no parentheses; a list stands in [ ], an alternative is another rule",
                ));
            }
            '&' => return Err(fault(at, "conditions are joined by 'and'")),
            '|' => return Err(fault(at, "there is no 'or': write the alternative as another rule")),
            _ => return Err(fault(at, "this character has no meaning here")),
        };
        found.push(Placed { token, at });
    }
    found.push(Placed { token: Token::End, at: text.len() });
    Ok(found)
}

fn in_segment() -> Token {
    Token::Word("in-segment".to_owned())
}

/// The rest of a bare word. A dash belongs to it unless it begins the arrow.
fn word(start: String, characters: &mut std::iter::Peekable<std::str::CharIndices<'_>>) -> String {
    let mut word = start;
    loop {
        let mut ahead = characters.clone();
        match (ahead.next(), ahead.next()) {
            (Some((_, '-')), Some((_, '>'))) => return word,
            (Some((_, c)), _) if c.is_alphanumeric() || matches!(c, '_' | '.' | '-' | '/' | '$') => {
                word.push(c);
                characters.next();
            }
            _ => return word,
        }
    }
}

struct Parser<'a> {
    text: &'a str,
    tokens: Vec<Placed>,
    next: usize,
}

impl Parser<'_> {
    fn peek(&self) -> Placed {
        self.ahead(0)
    }

    fn ahead(&self, by: usize) -> Placed {
        let end = || Placed { token: Token::End, at: self.text.len() };
        self.tokens.get(self.next.saturating_add(by)).cloned().unwrap_or_else(end)
    }

    fn take(&mut self) -> Placed {
        let placed = self.peek();
        self.next = self.next.saturating_add(1);
        placed
    }

    fn error(&self, message: impl Into<String>) -> RuleError {
        self.error_at(self.peek().at, message)
    }

    fn error_at(&self, at: usize, message: impl Into<String>) -> RuleError {
        RuleError { text: self.text.to_owned(), at, message: message.into() }
    }

    fn symbol(&mut self, symbol: &'static str, wanted: &str) -> Result<(), RuleError> {
        if self.peek().token == Token::Symbol(symbol) {
            self.next = self.next.saturating_add(1);
            return Ok(());
        }
        Err(self.error(format!("expected {wanted}")))
    }

    fn keyword(&mut self, keyword: &str) -> bool {
        let found = matches!(self.peek().token, Token::Word(word) if word.eq_ignore_ascii_case(keyword));
        if found {
            self.next = self.next.saturating_add(1);
        }
        found
    }

    /// `id:` in front. An attribute is never followed by a colon.
    fn id(&mut self) -> Option<String> {
        let (Token::Word(id) | Token::Text(id)) = self.peek().token else { return None };
        if self.ahead(1).token != Token::Symbol(":") {
            return None;
        }
        self.next = self.next.saturating_add(2);
        Some(id)
    }

    fn conditions(&mut self) -> Result<Vec<v1::Condition>, RuleError> {
        let mut conditions = Vec::new();
        // `always -> on` says aloud what `-> on` says too.
        if self.peek().token == Token::Symbol("->")
            || (self.ahead(1).token == Token::Symbol("->") && self.keyword("always"))
        {
            return Ok(conditions);
        }
        loop {
            conditions.push(self.condition()?);
            if conditions.len() > MAX_CONDITIONS {
                return Err(self.error(format!("a rule has at most {MAX_CONDITIONS} conditions")));
            }
            if self.keyword("and") {
                continue;
            }
            if self.keyword("or") {
                self.next = self.next.saturating_sub(1);
                return Err(self.error("there is no 'or': write the alternative as another rule"));
            }
            return Ok(conditions);
        }
    }

    fn condition(&mut self) -> Result<v1::Condition, RuleError> {
        let asks = |parser: &Self, by: usize| {
            parser.ahead(by).token == in_segment() && parser.ahead(by + 1).token == Token::Symbol("(")
        };
        if asks(self, 0) {
            return self.segments(Operator::InSegment);
        }
        if asks(self, 1) && self.keyword("not") {
            return self.segments(Operator::NotInSegment);
        }
        let placed = self.take();
        let attribute = match placed.token {
            Token::Word(word) if !matches!(word.as_str(), "and" | "or" | "not" | "in") => word,
            // In quotes an attribute may have any characters.
            Token::Text(text) if !text.is_empty() => text,
            _ => return Err(self.error_at(placed.at, "expected an attribute of the context, as country")),
        };
        let placed = self.take();
        let (operator, values) = match placed.token {
            Token::Symbol("=") => (Operator::Equals, vec![self.value()?]),
            Token::Symbol("!=") => (Operator::NotEquals, vec![self.value()?]),
            Token::Symbol("<") => (Operator::Less, vec![self.value()?]),
            Token::Symbol("<=") => (Operator::LessOrEqual, vec![self.value()?]),
            Token::Symbol(">") => (Operator::Greater, vec![self.value()?]),
            Token::Symbol(">=") => (Operator::GreaterOrEqual, vec![self.value()?]),
            Token::Word(word) => match word.to_ascii_lowercase().as_str() {
                "starts_with" => (Operator::StartsWith, vec![self.text_value("starts_with")?]),
                "ends_with" => (Operator::EndsWith, vec![self.text_value("ends_with")?]),
                "contains" => (Operator::Contains, vec![self.text_value("contains")?]),
                "in" => (Operator::In, self.list()?),
                "exists" => (Operator::Exists, Vec::new()),
                "not" if self.keyword("in") => (Operator::NotIn, self.list()?),
                "not" if self.keyword("exists") => (Operator::NotExists, Vec::new()),
                "not" => return Err(self.error("after 'not' comes 'in' or 'exists'")),
                _ => return Err(self.error_at(placed.at, OPERATORS)),
            },
            _ => return Err(self.error_at(placed.at, OPERATORS)),
        };
        Ok(v1::Condition { attribute, operator: operator.into(), values })
    }

    /// `in-segment(beta,staff)`.
    fn segments(&mut self, operator: Operator) -> Result<v1::Condition, RuleError> {
        self.next = self.next.saturating_add(2);
        let mut values = Vec::new();
        loop {
            let placed = self.take();
            let (Token::Word(id) | Token::Text(id)) = placed.token else {
                return Err(self.error_at(placed.at, "expected a segment, as in-segment(beta)"));
            };
            values.push(prost_types::Value { kind: Some(Kind::StringValue(id)) });
            if values.len() > MAX_VALUES {
                return Err(self.error(format!("a list has at most {MAX_VALUES} segments")));
            }
            if self.peek().token == Token::Symbol(")") {
                self.next = self.next.saturating_add(1);
                return Ok(v1::Condition { attribute: String::new(), operator: operator.into(), values });
            }
            self.symbol(",", "',' or ')'")?;
        }
    }

    fn value(&mut self) -> Result<prost_types::Value, RuleError> {
        let placed = self.take();
        let kind = match placed.token {
            Token::Text(text) => Kind::StringValue(text),
            Token::Number(number) => Kind::NumberValue(number),
            Token::Word(word) if word == "true" => Kind::BoolValue(true),
            Token::Word(word) if word == "false" => Kind::BoolValue(false),
            Token::Word(word) => {
                return Err(self.error_at(placed.at, format!("text stands in quotes: \"{word}\"")));
            }
            Token::Symbol("[") => {
                return Err(self.error_at(placed.at, "a list follows 'in': plan in [\"pro\",\"team\"]"));
            }
            _ => return Err(self.error_at(placed.at, "expected a value: \"text\", a number, true or false")),
        };
        Ok(prost_types::Value { kind: Some(kind) })
    }

    fn text_value(&mut self, operator: &str) -> Result<prost_types::Value, RuleError> {
        let at = self.peek().at;
        let value = self.value()?;
        match value.kind {
            Some(Kind::StringValue(_)) => Ok(value),
            _ => Err(self.error_at(at, format!("{operator} compares with text in quotes"))),
        }
    }

    fn list(&mut self) -> Result<Vec<prost_types::Value>, RuleError> {
        self.symbol("[", "a list, as [\"pro\",\"team\"]")?;
        let mut values = vec![self.value()?];
        loop {
            if self.peek().token == Token::Symbol("]") {
                self.next = self.next.saturating_add(1);
                return Ok(values);
            }
            self.symbol(",", "',' or ']'")?;
            values.push(self.value()?);
            if values.len() > MAX_VALUES {
                return Err(self.error(format!("a list has at most {MAX_VALUES} values")));
            }
        }
    }

    fn variant(&mut self) -> Result<String, RuleError> {
        let placed = self.take();
        match placed.token {
            Token::Word(word) | Token::Text(word) => Ok(word),
            Token::Number(number) => Ok(number.to_string()),
            _ => Err(self.error_at(placed.at, "expected a variant")),
        }
    }

    fn serve(&mut self) -> Result<v1::rule::Serve, RuleError> {
        let followed_by_end = self.ahead(1).token == Token::End;
        if !followed_by_end && self.keyword("ramp") {
            return self.ramp().map(v1::rule::Serve::Ramp);
        }
        let sticky = !followed_by_end && self.keyword("sticky");
        if followed_by_end || !(sticky || self.keyword("split")) {
            return self.variant().map(v1::rule::Serve::Variant);
        }
        let start = self.peek().at;
        let mut variants = Vec::new();
        loop {
            let variant = self.variant()?;
            self.symbol("=", "'=' and a weight, as split on=2500,off=7500")?;
            variants.push(v1::WeightedVariant { variant, weight_basis_points: self.weight()? });
            if variants.len() > MAX_SPLIT {
                return Err(self.error(format!("a split has at most {MAX_SPLIT} variants")));
            }
            if self.peek().token != Token::Symbol(",") {
                break;
            }
            self.next = self.next.saturating_add(1);
        }
        let sum: u64 = variants.iter().map(|v| u64::from(v.weight_basis_points)).sum();
        if sum != 10_000 {
            return Err(self.error_at(
                start,
                format!("weights are basis points (2500 = 25 %) and sum to 10000; these sum to {sum}"),
            ));
        }
        Ok(v1::rule::Serve::Split(v1::Split { variants, sticky, runs: Vec::new() }))
    }

    fn weight(&mut self) -> Result<u32, RuleError> {
        let placed = self.take();
        let basis_points = match placed.token {
            Token::Number(number) => number,
            Token::Percent(percent) => basis_points_of_percent(percent),
            _ => {
                return Err(
                    self.error_at(placed.at, "expected a weight: basis points, or a percentage as 25%")
                );
            }
        };
        if basis_points.fract() != 0.0 || !(0.0..=10_000.0).contains(&basis_points) {
            return Err(
                self.error_at(placed.at, "a weight is a whole number of basis points from 0 to 10000")
            );
        }
        // In range and whole: checked just above.
        Ok(basis_points as u32)
    }
}

const OPERATORS: &str =
    "expected an operator: = != < <= > >= in, not in, starts_with, ends_with, contains, exists, not exists";

/// A rule as the text that would parse to it, for tables.
#[must_use]
pub fn describe_rule(rule: &v1::Rule) -> String {
    let conditions: Vec<String> = rule.conditions.iter().map(describe_condition).collect();
    let serve = match &rule.serve {
        Some(v1::rule::Serve::Variant(variant)) => quoted_unless_plain(variant),
        Some(v1::rule::Serve::Split(split)) => {
            let parts: Vec<String> = split
                .variants
                .iter()
                .map(|v| format!("{}={}", quoted_unless_plain(&v.variant), v.weight_basis_points))
                .collect();
            format!("{} {}", if split.sticky { "sticky" } else { "split" }, parts.join(","))
        }
        Some(v1::rule::Serve::Ramp(ramp)) => ramp::describe(ramp),
        None => "(nothing)".to_owned(),
    };
    let conditions = if conditions.is_empty() { "always".to_owned() } else { conditions.join(" and ") };
    format!("{conditions} -> {serve}")
}

fn describe_condition(condition: &v1::Condition) -> String {
    let attribute = quoted_unless_plain(&condition.attribute);
    let values: Vec<String> = condition.values.iter().map(super::render::value_text).collect();
    let first = values.first().cloned().unwrap_or_default();
    match condition.operator() {
        Operator::Unspecified => format!("{attribute} ? {first}"),
        Operator::Equals => format!("{attribute} = {first}"),
        Operator::NotEquals => format!("{attribute} != {first}"),
        Operator::Less => format!("{attribute} < {first}"),
        Operator::LessOrEqual => format!("{attribute} <= {first}"),
        Operator::Greater => format!("{attribute} > {first}"),
        Operator::GreaterOrEqual => format!("{attribute} >= {first}"),
        Operator::In => format!("{attribute} in [{}]", values.join(",")),
        Operator::NotIn => format!("{attribute} not in [{}]", values.join(",")),
        Operator::StartsWith => format!("{attribute} starts_with {first}"),
        Operator::EndsWith => format!("{attribute} ends_with {first}"),
        Operator::Contains => format!("{attribute} contains {first}"),
        Operator::Exists => format!("{attribute} exists"),
        Operator::NotExists => format!("{attribute} not exists"),
        Operator::InSegment => format!("in-segment({})", segments_text(condition)),
        Operator::NotInSegment => format!("not in-segment({})", segments_text(condition)),
    }
}

fn segments_text(condition: &v1::Condition) -> String {
    let text = |value: &prost_types::Value| match &value.kind {
        Some(Kind::StringValue(id)) => quoted_unless_plain(id),
        _ => super::render::value_text(value),
    };
    condition.values.iter().map(text).collect::<Vec<_>>().join(",")
}

/// A clause as the text that would parse to it.
#[must_use]
pub fn describe_clause(conditions: &[v1::Condition]) -> String {
    conditions.iter().map(describe_condition).collect::<Vec<_>>().join(" and ")
}

fn quoted_unless_plain(text: &str) -> String {
    let plain = text.starts_with(|c: char| c.is_alphabetic() || matches!(c, '_' | '$'))
        && text.chars().all(|c| c.is_alphanumeric() || matches!(c, '_' | '.' | '$'))
        && !matches!(text, "and" | "or" | "not" | "in" | "split" | "sticky" | "ramp" | "always");
    if plain { text.to_owned() } else { serde_json::Value::String(text.to_owned()).to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> v1::Rule {
        parse_rule(text, "rule-1").unwrap_or_else(|error| panic!("{error}"))
    }

    #[test]
    fn the_documented_examples_parse() {
        let rule = parsed(r#"country = "DE" -> on"#);
        assert_eq!(rule.id, "rule-1");
        assert_eq!(rule.conditions[0].attribute, "country");
        assert_eq!(rule.conditions[0].operator(), Operator::Equals);
        assert_eq!(rule.serve, Some(v1::rule::Serve::Variant("on".into())));

        let rule = parsed(r#"adults: plan in ["pro","team"] and age >= 18 -> split on=2500,off=7500"#);
        assert_eq!(rule.id, "adults");
        assert_eq!(rule.conditions.len(), 2);
        assert_eq!(rule.conditions[0].values.len(), 2);
        assert_eq!(rule.conditions[1].values[0].kind, Some(Kind::NumberValue(18.0)));
        let Some(v1::rule::Serve::Split(split)) = rule.serve else { panic!("a split") };
        assert_eq!(split.variants[1].weight_basis_points, 7500);
    }

    #[test]
    fn a_rule_described_parses_to_the_same_rule() {
        for text in [
            "-> on",
            "always -> split a=12.34%,b=8766",
            "always -> sticky a=12.34%,b=8766",
            "-> sticky",
            r#"-> split "sticky"=10000"#,
            r#"user.plan.name != "free" and beta exists and banned not exists -> "with space""#,
            r#"email ends_with "@example.com" and path starts_with '/de/' and agent contains "X\"Y" -> on"#,
            r#"age < -1.5e3 and vip == true and tier not in [1, 2, "3", false] -> v2-dark"#,
            r#""in" = 1 -> split"#,
            "a=1->x-y",
            r#"a = 1 -> ramp on from "2026-12-01T08:00:00Z" to 1796716800 else off"#,
            r#"always -> ramp on from 1% at "2026-12-01T08:00:00Z" to 5000 at "2026-12-08T08:00:00Z""#,
            "always -> ramp",
            r#""ключ с пробелом" = "да" -> on"#,
            r#"in-segment(beta) and not in-segment(staff,"has-dash","2nd") -> on"#,
            r#""in-segment" = 1 -> on"#,
            "in-segment = 1 -> on",
        ] {
            let rule = parsed(text);
            let again = describe_rule(&rule);
            assert_eq!(parse_rule(&again, "rule-1").unwrap(), rule, "{text} became {again}");
        }
        let ramp = describe_rule(&parsed("always -> ramp on from 150 at 1 to 5000 at 2"));
        assert!(ramp.contains("from 1.5% at") && ramp.contains("to 50% at"), "shares as elsewhere: {ramp}");
    }

    #[test]
    fn errors_point_to_the_character() {
        for (text, at, part) in [
            ("country = DE -> on", 10, "text stands in quotes: \"DE\""),
            ("country \"DE\" -> on", 8, "expected an operator"),
            ("country = \"DE\"", 14, "expected '->'"),
            ("country = \"DE -> on", 10, "not closed"),
            ("a = 1 or b = 2 -> on", 6, "there is no 'or'"),
            ("a = 1 and -> on", 10, "expected an attribute"),
            ("(a = 1) -> on", 0, "no parentheses"),
            ("a in \"x\" -> on", 5, "expected a list"),
            ("a in [] -> on", 6, "expected a value"),
            ("a in [1 2] -> on", 8, "',' or ']'"),
            ("a = 1 -> split on=10,off=20", 15, "these sum to 30"),
            ("a = 1 -> split on=25.5,off=9974.5", 18, "whole number"),
            ("a = 1 -> split on,off=1", 17, "'=' and a weight"),
            ("a = 1 -> ramp on at 1 to 2", 17, "expected 'from'"),
            ("a = 1 -> ramp on from 1", 23, "expected 'to'"),
            ("a = 1 -> ramp on from yesterday to 2", 22, "a time in quotes"),
            ("a = 1 -> ramp on from 1.5 to 2", 22, "whole seconds"),
            ("a = 1 -> ramp on from 101% at 1 to 2", 22, "from 0 to 10000"),
            ("a = 1 -> on off", 12, "nothing may follow"),
            ("a contains 1 -> on", 11, "compares with text"),
            ("a not 1 -> on", 6, "after 'not'"),
            ("a = 1e999 -> on", 4, ""),
            ("in-segment() -> on", 11, "expected a segment"),
            ("in-segment(a b) -> on", 13, "',' or ')'"),
            ("in-segment(a -> on", 13, "',' or ')'"),
            ("not in-segment(3) -> on", 15, "expected a segment"),
            ("(in-segment(a)) -> on", 0, "no parentheses"),
            ("", 0, "expected an attribute"),
        ] {
            let error = parse_rule(text, "r").unwrap_err();
            assert_eq!(error.at, at, "{text}: {}", error.message);
            assert!(error.message.contains(part), "{text}: {}", error.message);
        }
    }

    #[test]
    fn the_caret_stands_under_the_character_also_after_wide_text() {
        let error = parse_rule("größe = DE -> on", "r").unwrap_err();
        let lines: Vec<String> = error.to_string().lines().map(ToOwned::to_owned).collect();
        assert_eq!(lines[1], "  größe = DE -> on");
        assert_eq!(lines[2].chars().position(|c| c == '^'), lines[1].chars().position(|c| c == 'D'));
    }

    #[test]
    fn no_input_makes_the_parser_panic() {
        let alphabet: Vec<char> = "ab \"'\\[],:=!<>-+0.9e%split andinot→éramp".chars().collect();
        let mut seed = 1_u64;
        for _ in 0..20_000 {
            let mut text = String::new();
            for _ in 0..12 {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                text.push(alphabet[(seed >> 33) as usize % alphabet.len()]);
            }
            if let Err(error) = parse_rule(&text, "r") {
                assert!(text.is_char_boundary(error.at));
                let _ = error.to_string();
            }
        }
    }
}
