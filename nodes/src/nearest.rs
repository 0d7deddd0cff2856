//! The known word nearest to a mistyped one, for errors that name the way out.

/// The known word within a third of its length in edits, if any; ties go to the first.
#[must_use]
pub fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    known
        .into_iter()
        .map(|candidate| (distance(word, candidate), candidate))
        .filter(|(distance, candidate)| *distance <= candidate.chars().count().max(3) / 3)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// `did you mean 'x'?` when something is near, else the list of what is known.
#[must_use]
pub fn suggestion(word: &str, known: &[&str]) -> String {
    match nearest(word, known.iter().copied()) {
        Some(near) => format!("did you mean '{near}'?"),
        None => format!("known: {}", known.join(", ")),
    }
}

/// Edits between two words, a swap of neighbours counting as one (optimal string alignment), over their first 64 characters.
#[must_use]
pub fn distance(a: &str, b: &str) -> usize {
    let [a, b] = [a, b].map(|word| word.chars().take(64).collect::<Vec<char>>());
    let mut before_last: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut row = vec![i.saturating_add(1)];
        for (j, y) in b.iter().enumerate() {
            let at = |row: &[usize], place: usize| row.get(place).copied().unwrap_or(usize::MAX / 2);
            let mut cost =
                (at(&last, j + 1) + 1).min(at(&row, j) + 1).min(at(&last, j) + usize::from(x != y));
            let swapped = i > 0 && j > 0 && b.get(j - 1) == Some(x) && a.get(i - 1) == Some(y);
            if swapped {
                cost = cost.min(at(&before_last, j - 1) + 1);
            }
            row.push(cost);
        }
        before_last = std::mem::replace(&mut last, row);
    }
    last.last().copied().unwrap_or(a.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distance_counts_edits() {
        for (left, right, expected) in
            [("", "abc", 3), ("kitten", "sitting", 3), ("listen", "listen", 0), ("lisetn", "listen", 1)]
        {
            assert_eq!(distance(left, right), expected, "{left} to {right}");
        }
    }

    #[test]
    fn the_nearest_is_found_and_nonsense_is_not_guessed() {
        let known = ["server", "environment", "principal", "request_timeout"];
        assert_eq!(nearest("sevrer", known), Some("server"));
        assert_eq!(nearest("request-timeout", known), Some("request_timeout"));
        assert_eq!(nearest("enviroment", known), Some("environment"));
        assert_eq!(nearest("zzz", known), None);
        assert_eq!(suggestion("zzz", &["a", "b"]), "known: a, b");
    }
}
