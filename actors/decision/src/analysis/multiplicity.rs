//! Many tests at once: which to believe, and p-values that already know of the others.

/// Rejections and adjusted p-values, in the order of the input.
#[derive(Debug, Clone, PartialEq)]
pub struct Adjusted {
    /// Believed at the level asked for.
    pub reject: Vec<bool>,
    /// The level at which each would just be believed, at most 1.
    pub adjusted: Vec<f64>,
}

/// How tests are taken together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Correction {
    /// Benjamini & Hochberg (1995): false discovery rate, independent or positively dependent tests.
    BenjaminiHochberg,
    /// Benjamini & Yekutieli (2001): the same under any dependence.
    BenjaminiYekutieli,
    /// Holm (1979): family-wise error under any dependence.
    Holm,
    /// Bonferroni: family-wise error, each at alpha / m.
    Bonferroni,
}

/// Positions by rising value; ties and NaN (last) keep their order.
fn order(values: &[f64]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|left, right| {
        let at = |index: &usize| values.get(*index).copied().unwrap_or(1.0);
        at(left).total_cmp(&at(right)).then(left.cmp(right))
    });
    order
}

/// Takes the p-values together.
#[must_use]
pub fn correct(p_values: &[f64], alpha: f64, correction: Correction) -> Adjusted {
    let tests = p_values.len() as f64;
    let order = order(p_values);
    let mut adjusted = vec![1.0; p_values.len()];
    let at = |index: usize| p_values.get(index).copied().filter(|p| !p.is_nan()).unwrap_or(1.0);
    let mut set = |index: usize, value: f64| {
        if let Some(slot) = adjusted.get_mut(index) {
            *slot = value.min(1.0);
        }
    };
    match correction {
        Correction::Bonferroni => {
            for index in order {
                set(index, at(index) * tests);
            }
        }
        Correction::Holm => {
            let mut running = 0.0_f64;
            for (rank, index) in order.into_iter().enumerate() {
                running = running.max(at(index) * (tests - rank as f64));
                set(index, running);
            }
        }
        Correction::BenjaminiHochberg | Correction::BenjaminiYekutieli => {
            let harmonic: f64 = if correction == Correction::BenjaminiYekutieli {
                (1..=p_values.len()).map(|rank| 1.0 / rank as f64).sum()
            } else {
                1.0
            };
            let mut running = f64::INFINITY;
            for (rank, index) in order.into_iter().enumerate().rev() {
                running = running.min(at(index) * harmonic / ((rank as f64 + 1.0) / tests));
                set(index, running);
            }
        }
    }
    // A level met exactly is met: the products above may end one bit beyond it.
    let reject = adjusted.iter().map(|p| *p <= alpha * (1.0 + 4.0 * f64::EPSILON)).collect();
    Adjusted { reject, adjusted }
}

/// e-BH (Wang & Ramdas 2022, eq. 5): the k largest e-values where the k-th is at least m / (k alpha), for the largest such k. Controls
/// the false discovery rate under any dependence.
#[must_use]
pub fn e_benjamini_hochberg(e_values: &[f64], alpha: f64) -> Vec<bool> {
    let tests = e_values.len() as f64;
    let mut falling = order(e_values);
    falling.reverse();
    let mut believed = 0;
    for (rank, index) in falling.iter().enumerate() {
        let e = e_values.get(*index).copied().filter(|e| !e.is_nan()).unwrap_or(0.0);
        let count = rank as f64 + 1.0;
        if e * count * alpha * (1.0 + 4.0 * f64::EPSILON) >= tests {
            believed = rank + 1;
        }
    }
    let mut reject = vec![false; e_values.len()];
    for index in falling.into_iter().take(believed) {
        if let Some(slot) = reject.get_mut(index) {
            *slot = true;
        }
    }
    reject
}
