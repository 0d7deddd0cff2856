//! The operators that make texts and lists: they work in the arena.
//!
//! A list is made in room that is taken beforehand, because its items may make values of their own.

use super::evaluate::{Machine, Scope};
use super::node::{Each, Node};
use super::value::{Arena, Printed, Span, Stop, Val};
use crate::explain::Trace;

impl<'a, T: Trace> Machine<'a, '_, T> {
    #[inline(never)]
    pub(super) fn list(&mut self, nodes: &'a [Node], scope: Scope<'a>) -> Result<Val<'a>, Stop> {
        self.evaluated(nodes, scope).map(Val::MadeList)
    }

    fn evaluated(&mut self, nodes: &'a [Node], scope: Scope<'a>) -> Result<Span, Stop> {
        let span = self.arena.reserve(nodes.len())?;
        for (nth, node) in nodes.iter().enumerate() {
            let value = self.eval(node, scope)?;
            self.arena.fill(span, nth, value);
        }
        Ok(span)
    }

    /// All arguments as one text.
    #[inline(never)]
    pub(super) fn cat(&mut self, nodes: &'a [Node], scope: Scope<'a>) -> Result<Val<'a>, Stop> {
        // Arguments first: what they make lies before the text, not in it.
        let span = self.evaluated(nodes, scope)?;
        let start = self.arena.text_start();
        for nth in 0..nodes.len() {
            self.charge(1)?;
            let value = self.arena.item(Val::MadeList(span), nth).unwrap_or(Val::Null);
            self.arena.push_value(value, 0)?;
        }
        let made = self.arena.text_since(start);
        self.charge_text(self.arena.text(made).map_or(0, str::len))?;
        Ok(made)
    }

    /// Characters from a start; negative counts from the end, as does a negative length.
    #[inline(never)]
    pub(super) fn substr(&mut self, nodes: &'a [Node], scope: Scope<'a>) -> Result<Val<'a>, Stop> {
        let mut arguments = [Val::Null; 3];
        for (argument, node) in arguments.iter_mut().zip(nodes) {
            *argument = self.eval(node, scope)?;
        }
        let [source, start, length] = arguments;
        let source = if self.arena.text(source).is_some() {
            source
        } else {
            let at = self.arena.text_start();
            self.arena.push_value(source, 0)?;
            self.arena.text_since(at)
        };
        let start = self.arena.number(start);
        let length = (nodes.len() > 2).then(|| self.arena.number(length));
        let bytes = self.arena.text(source).map_or(0, str::len);
        self.charge_text(bytes.saturating_mul(16))?;
        let Some(text) = self.arena.text(source) else { return Ok(Val::Null) };
        // Below 2^53, so exact; a not-a-number counts as 0.
        let count = text.chars().count() as f64;
        let whole = |number: f64| if number.is_nan() { 0.0 } else { number.trunc() };
        let first =
            if whole(start) < 0.0 { (count + whole(start)).max(0.0) } else { whole(start).min(count) };
        let end = match length.map(whole) {
            None => count,
            Some(length) if length < 0.0 => count + length,
            Some(length) => (first + length).min(count),
        };
        let offset = |nth: f64| text.char_indices().nth(nth as usize).map_or(text.len(), |(at, _)| at);
        let (from, to) = (offset(first), offset(end.max(first)));
        Ok(match source {
            Val::Text(text) => Val::Text(text.get(from..to).unwrap_or_default()),
            // Within the text, whose length fits.
            Val::MadeText(span) => {
                Val::MadeText(Span { start: span.start + from as u32, len: (to - from) as u32 })
            }
            _ => Val::Null,
        })
    }

    /// One list of all arguments; lists among them are opened, once.
    #[inline(never)]
    pub(super) fn merge(&mut self, nodes: &'a [Node], scope: Scope<'a>) -> Result<Val<'a>, Stop> {
        let given = Val::MadeList(self.evaluated(nodes, scope)?);
        let size = |value: Val<'a>| if value.is_list() { Arena::len(value) } else { 1 };
        let all = || (0..nodes.len()).filter_map(|nth| self.arena.item(given, nth));
        let count = all().map(size).sum();
        self.charge(u32::try_from(count).unwrap_or(u32::MAX))?;
        let span = self.arena.reserve(count)?;
        let mut at = 0;
        for nth in 0..nodes.len() {
            let value = self.arena.item(given, nth).unwrap_or(Val::Null);
            for inner in 0..size(value) {
                let item = if value.is_list() { self.arena.item(value, inner) } else { Some(value) };
                self.arena.fill(span, at, item.unwrap_or(Val::Null));
                at += 1;
            }
        }
        Ok(Val::MadeList(span))
    }

    #[inline(never)]
    pub(super) fn missing(&mut self, nodes: &'a [Node], scope: Scope<'a>) -> Result<Val<'a>, Stop> {
        let given = Val::MadeList(self.evaluated(nodes, scope)?);
        let keys = match self.arena.item(given, 0) {
            Some(first) if first.is_list() => first,
            _ => given,
        };
        let (missing, _) = self.missing_of(keys, scope)?;
        Ok(Val::MadeList(missing))
    }

    #[inline(never)]
    pub(super) fn missing_some(&mut self, sides: &'a [Node; 2], scope: Scope<'a>) -> Result<Val<'a>, Stop> {
        let [need, keys] = sides;
        let (need, keys) = (self.eval(need, scope)?, self.eval(keys, scope)?);
        let need = self.arena.number(need);
        let (missing, found) = self.missing_of(keys, scope)?;
        // No list has 2^53 keys.
        Ok(if found as f64 >= need { Val::List(&[]) } else { Val::MadeList(missing) })
    }

    /// The keys that are not there or null, and how many are there.
    fn missing_of(&mut self, keys: Val<'a>, scope: Scope<'a>) -> Result<(Span, usize), Stop> {
        let count = if keys.is_list() { Arena::len(keys) } else { 0 };
        let mut span = self.arena.reserve(count)?;
        span.len = 0;
        for nth in 0..count {
            self.charge(1)?;
            let key = self.arena.item(keys, nth).unwrap_or(Val::Null);
            if self.find(key, scope)?.is_none() {
                self.arena.fill(span, span.len as usize, key);
                span.len += 1;
            }
        }
        Ok((span, count - span.len as usize))
    }

    #[inline(never)]
    pub(super) fn each(
        &mut self,
        each: Each,
        sides: &'a [Node; 2],
        scope: Scope<'a>,
    ) -> Result<Val<'a>, Stop> {
        let [list, body] = sides;
        let list = self.eval(list, scope)?;
        let count = if list.is_list() { Arena::len(list) } else { 0 };
        let keeps = matches!(each, Each::Map | Each::Filter);
        let mut span = self.arena.reserve(if keeps { count } else { 0 })?;
        span.len = 0;
        for nth in 0..count {
            self.charge(1)?;
            let item = self.arena.item(list, nth).unwrap_or(Val::Null);
            let value = self.eval(body, Scope::Item(item))?;
            let holds = Arena::is_true(value);
            match each {
                Each::Map => {
                    self.arena.fill(span, nth, value);
                    span.len += 1;
                }
                Each::Filter if holds => {
                    self.arena.fill(span, span.len as usize, item);
                    span.len += 1;
                }
                Each::Filter => {}
                Each::All if !holds => return Ok(Val::Bool(false)),
                Each::None if holds => return Ok(Val::Bool(false)),
                Each::Some if holds => return Ok(Val::Bool(true)),
                Each::All | Each::None | Each::Some => {}
            }
        }
        Ok(match each {
            Each::Map | Each::Filter => Val::MadeList(span),
            // Of nothing, not all.
            Each::All => Val::Bool(count > 0),
            Each::None => Val::Bool(true),
            Each::Some => Val::Bool(false),
        })
    }

    #[inline(never)]
    pub(super) fn reduce(&mut self, sides: &'a [Node; 3], scope: Scope<'a>) -> Result<Val<'a>, Stop> {
        let [list, body, start] = sides;
        let list = self.eval(list, scope)?;
        let mut accumulator = self.eval(start, scope)?;
        let count = if list.is_list() { Arena::len(list) } else { 0 };
        for nth in 0..count {
            self.charge(1)?;
            let current = self.arena.item(list, nth).unwrap_or(Val::Null);
            accumulator = self.eval(body, Scope::Reduce { current, accumulator })?;
        }
        Ok(accumulator)
    }
}

/// What a result names: the key of a variant, as JSON prints it without quotes. `None`: null.
pub(super) enum Named<'v> {
    Nothing,
    Text(&'v str),
    Number(Printed),
    /// No key: a list or an object.
    Other,
}

pub(super) fn name_of<'v, 'a: 'v>(arena: &'v Arena<'a>, value: Val<'a>) -> Named<'v> {
    match value {
        Val::Null => Named::Nothing,
        Val::Bool(true) => Named::Text("true"),
        Val::Bool(false) => Named::Text("false"),
        // JSON has no word for others but null.
        Val::Number(number) if !number.is_finite() => Named::Nothing,
        Val::Number(number) => Named::Number(Printed::of(number)),
        Val::Text(_) | Val::MadeText(_) => arena.text(value).map_or(Named::Other, Named::Text),
        _ => Named::Other,
    }
}
