//! Lists that the server hands out page by page.

use featureops_proto::v1;

use super::failure::Failure;

/// Most items a listing fetches: beyond it one asks for less, or pages over the API.
pub const MAX_LISTED: usize = 100_000;

/// How many are to be listed.
///
/// # Errors
/// It is no number, or none at all: a list of nothing looks as if there were nothing.
pub fn parse_limit(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(limit) if (1..=MAX_LISTED).contains(&limit) => Ok(limit),
        _ => Err(format!("a number from 1 to {MAX_LISTED}; more are paged over the API")),
    }
}

/// A page, or several put together: items, and where the next one begins.
pub trait Listing: Default {
    type Item;

    fn parts(&mut self) -> (&mut Vec<Self::Item>, &mut String);
}

macro_rules! listings {
    ($($page:ident . $items:ident : $item:ident),* $(,)?) => {$(
        impl Listing for v1::$page {
            type Item = v1::$item;

            fn parts(&mut self) -> (&mut Vec<v1::$item>, &mut String) {
                (&mut self.$items, &mut self.next_page_token)
            }
        }
    )*};
}

listings!(
    ListAuditResponse.records: AuditRecord,
    ListDecisionsResponse.decisions: Decision,
    ListEnvironmentsResponse.environments: Environment,
    ListExperimentsResponse.experiments: Experiment,
    ListFlagVersionsResponse.versions: FlagVersionRecord,
    ListFlagsResponse.flags: Flag,
    ListHoldoutsResponse.holdouts: Holdout,
    ListLayersResponse.layers: Layer,
    ListMetricsResponse.metrics: Metric,
    ListSchedulesResponse.schedules: Schedule,
    ListSegmentsResponse.segments: Segment,
    ListTokensResponse.tokens: Token,
);

/// All items, or the first `limit` of them; then the token says where the rest begins. `fetch` reads one page, given its size
/// and token; no page is asked for with more than `page_max` items.
///
/// # Errors
/// Those of `fetch`.
pub async fn listed<L: Listing>(
    limit: usize,
    page_max: i32,
    mut fetch: impl AsyncFnMut(i32, String) -> Result<L, Failure>,
) -> Result<L, Failure> {
    let limit = limit.min(MAX_LISTED);
    let mut all = L::default();
    loop {
        let (items, token) = all.parts();
        let left = i32::try_from(limit.saturating_sub(items.len())).unwrap_or(page_max);
        let mut page = fetch(left.clamp(1, page_max), std::mem::take(token)).await?;
        let (more, next) = page.parts();
        items.append(more);
        *token = std::mem::take(next);
        if token.is_empty() || items.len() >= limit {
            items.truncate(limit);
            return Ok(all);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A server of `count` flags that hands out three at most.
    async fn list(count: usize, limit: usize, asked: &mut Vec<i32>) -> v1::ListFlagsResponse {
        let fetch = async |size: i32, token: String| {
            asked.push(size);
            let first = token.parse().unwrap_or(0);
            let end = count.min(first + usize::try_from(size).unwrap().min(3));
            let flags =
                (first..end).map(|n| v1::Flag { name: n.to_string(), ..v1::Flag::default() }).collect();
            let next_page_token = if end < count { end.to_string() } else { String::new() };
            Ok(v1::ListFlagsResponse { flags, next_page_token })
        };
        listed(limit, 4, fetch).await.unwrap()
    }

    #[tokio::test]
    async fn pages_are_put_together_up_to_the_limit() {
        let mut asked = Vec::new();
        let all = list(8, MAX_LISTED, &mut asked).await;
        assert_eq!(
            (all.flags.len(), all.next_page_token.as_str(), asked.as_slice()),
            (8, "", [4, 4, 4].as_slice())
        );
        assert_eq!(all.flags[7].name, "7");
        asked.clear();
        let some = list(8, 5, &mut asked).await;
        assert_eq!(
            (some.flags.len(), some.next_page_token.as_str(), asked.as_slice()),
            (5, "5", [4, 2].as_slice())
        );
        assert_eq!(list(0, 5, &mut Vec::new()).await.flags, []);
    }
}

#[cfg(test)]
mod limits {
    use super::*;

    #[test]
    fn a_limit_has_both_ends() {
        assert_eq!((parse_limit("1"), parse_limit("100000")), (Ok(1), Ok(MAX_LISTED)));
        for text in ["0", "100001", "-1", "x", "99999999999999999999"] {
            assert!(parse_limit(text).unwrap_err().contains("from 1 to 100000"), "{text}");
        }
    }
}
