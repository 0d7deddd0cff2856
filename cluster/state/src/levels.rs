//! Who names whom, and how far a chain of names may go.
//!
//! ```text
//!   above:  whoever names it, and whoever names those      first      below:  what it names, and what those name
//!                       at most MAX_LEVELS links from the farthest above to the farthest below
//! ```
//!
//! Wanted, after every write: nothing rests on itself, however far round; no chain has more than [`MAX_LEVELS`] links. What
//! names what is for the callers to say.

use std::collections::{BTreeMap, BTreeSet};

use featureops_proto::ErrorCode;
use featureops_proto::log::Refusal;

use crate::apply::refuse;

/// Links from one thing to the farthest that it rests on.
pub const MAX_LEVELS: usize = 16;

/// Users by what they name: (environment, named, user). The default user is the least.
#[derive(Debug, Clone, Default)]
pub struct Links<U: Ord + Default>(BTreeSet<(String, String, U)>);

impl<U: Ord + Default> Links<U> {
    /// Takes in what a user names.
    pub fn insert(&mut self, links: impl Iterator<Item = (String, String, U)>) {
        self.0.extend(links);
    }

    /// Takes it out, as it was taken in.
    pub fn remove(&mut self, links: impl Iterator<Item = (String, String, U)>) {
        for link in links {
            self.0.remove(&link);
        }
    }

    /// Those that name this one, in their order.
    pub fn of<'a>(&'a self, environment: &'a str, named: &'a str) -> impl Iterator<Item = &'a U> {
        let first = (environment.to_owned(), named.to_owned(), U::default());
        let links = self.0.range(first..);
        links.take_while(move |(e, n, _)| e == environment && n == named).map(|(_, _, user)| user)
    }
}

/// Refuses what rests on itself, and a chain through `first` that is too long. `below` says what one names, nothing of what
/// is not there; `above` says who names it. The refusal tells them as `noun`, in `field`.
pub fn check_levels<'a, B, A>(
    first: &'a str,
    below: impl Fn(&'a str) -> Option<B>,
    above: impl Fn(&'a str) -> A,
    noun: &str,
    field: &str,
) -> Result<(), Refusal>
where
    B: IntoIterator<Item = &'a str>,
    A: IntoIterator<Item = &'a str>,
{
    let mut descent = Descent { below, path: Vec::new(), known: BTreeMap::new(), noun, field };
    let down = descent.links(first)?;
    let levels = down + climb(first, 0, &above, &mut BTreeMap::new());
    if levels > MAX_LEVELS { descent.refuse_levels(first, levels) } else { Ok(()) }
}

struct Descent<'a, 'w, F> {
    below: F,
    /// From the first to the one that is looked at; bounds the descent.
    path: Vec<&'a str>,
    known: BTreeMap<&'a str, usize>,
    noun: &'w str,
    field: &'w str,
}

impl<'a, B, F> Descent<'a, '_, F>
where
    B: IntoIterator<Item = &'a str>,
    F: Fn(&'a str) -> Option<B>,
{
    /// Links to the farthest below.
    fn links(&mut self, from: &'a str) -> Result<usize, Refusal> {
        if let Some(links) = self.known.get(from) {
            return Ok(*links);
        }
        let Some(named) = (self.below)(from) else { return Ok(0) };
        if let Some(first) = self.path.first().filter(|_| self.path.len() > MAX_LEVELS) {
            return self.refuse_levels(first, self.path.len());
        }
        self.path.push(from);
        let mut links = 0;
        for next in named {
            if let Some(at) = self.path.iter().position(|earlier| *earlier == next) {
                let mut round: Vec<&str> = self.path.iter().skip(at).copied().collect();
                round.push(next);
                let message = format!("{} in a circle: {}; leave one out", self.noun, round.join(" -> "));
                return refuse(ErrorCode::InvalidArgument, self.field, next, message);
            }
            links = links.max(self.links(next)? + 1);
        }
        self.path.pop();
        self.known.insert(from, links);
        Ok(links)
    }

    fn refuse_levels<T>(&self, first: &str, levels: usize) -> Result<T, Refusal> {
        let noun = self.noun;
        let message = format!("{levels} levels of {noun}, at most {MAX_LEVELS}: name the last ones directly");
        refuse(ErrorCode::LimitReached, self.field, first, message)
    }
}

/// Links from the farthest above, as far as they count.
fn climb<'a, A>(
    from: &'a str,
    climbed: usize,
    above: &impl Fn(&'a str) -> A,
    known: &mut BTreeMap<&'a str, usize>,
) -> usize
where
    A: IntoIterator<Item = &'a str>,
{
    if climbed > MAX_LEVELS {
        return 0;
    }
    let mut links = 0;
    for user in above(from) {
        let high = match known.get(user) {
            Some(high) => *high,
            None => climb(user, climbed + 1, above, known),
        };
        links = links.max(high + 1);
    }
    known.insert(from, links);
    links
}
