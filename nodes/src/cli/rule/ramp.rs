//! The text of a ramp: `ramp on from 1% at "2026-12-01T08:00:00Z" to 100% at "2026-12-08T08:00:00Z" else off`.

use featureops_proto::v1;

use super::super::render::share_text;
use super::{Parser, RuleError, Token, quoted_unless_plain};
use crate::cli::span::parse_moment;

impl Parser<'_> {
    pub(super) fn ramp(&mut self) -> Result<v1::Ramp, RuleError> {
        const FORM: &str = "ramp on from 1% at \"2026-12-01T08:00:00Z\" to 100% at \"2026-12-08T08:00:00Z\"";
        let variant = self.variant()?;
        if !self.keyword("from") {
            return Err(self.error(format!("expected 'from' and when it begins, as {FORM}")));
        }
        let (start_basis_points, start_time) = self.share_at()?;
        if !self.keyword("to") {
            return Err(self.error(format!("expected 'to' and when it ends, as {FORM}")));
        }
        let (end_basis_points, end_time) = self.share_at()?;
        let otherwise = if self.keyword("else") { self.variant()? } else { String::new() };
        Ok(v1::Ramp {
            variant,
            otherwise,
            start_time: Some(start_time),
            end_time: Some(end_time),
            start_basis_points: start_basis_points.unwrap_or(0),
            end_basis_points,
        })
    }

    /// `1% at TIME`, or the time alone.
    fn share_at(&mut self) -> Result<(Option<u32>, prost_types::Timestamp), RuleError> {
        let mut share = None;
        if matches!(self.ahead(1).token, Token::Word(word) if word.eq_ignore_ascii_case("at")) {
            share = Some(self.weight()?);
            self.next = self.next.saturating_add(1);
        }
        let placed = self.take();
        let time = match placed.token {
            Token::Text(text) => parse_moment(&text),
            Token::Number(number) => parse_moment(&number.to_string()),
            _ => Err("expected a time in quotes, as \"2026-12-01T08:00:00Z\", or unix seconds".to_owned()),
        };
        match time {
            Ok(time) if time.nanos == 0 => Ok((share, time)),
            Ok(_) => Err(self.error_at(placed.at, "a ramp's times are whole seconds")),
            Err(message) => Err(self.error_at(placed.at, message)),
        }
    }
}

/// As it would parse.
pub(super) fn describe(ramp: &v1::Ramp) -> String {
    let at = |share: Option<u32>, time: Option<&prost_types::Timestamp>| {
        let share =
            share.map_or_else(String::new, |share| format!("{} at ", share_text(share).replace(' ', "")));
        format!("{share}\"{}\"", time.map_or_else(String::new, ToString::to_string))
    };
    let start = at(Some(ramp.start_basis_points).filter(|share| *share > 0), ramp.start_time.as_ref());
    let end = at(ramp.end_basis_points, ramp.end_time.as_ref());
    let otherwise = match ramp.otherwise.as_str() {
        "" => String::new(),
        variant => format!(" else {}", quoted_unless_plain(variant)),
    };
    format!("ramp {} from {start} to {end}{otherwise}", quoted_unless_plain(&ramp.variant))
}
