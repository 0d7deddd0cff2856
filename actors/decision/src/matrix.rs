//! Small dense symmetric matrices: at most 32 arms. Exactly what the contrasts need and nothing that a solver library does.

/// A square matrix, row by row.
#[derive(Debug, Clone, PartialEq)]
pub struct Matrix {
    size: usize,
    values: Vec<f64>,
}

impl Matrix {
    /// All zero.
    #[must_use]
    pub fn zero(size: usize) -> Self {
        Self { size, values: vec![0.0; size * size] }
    }

    /// Rows, and columns.
    #[must_use]
    pub const fn size(&self) -> usize {
        self.size
    }

    /// One value; 0 outside.
    #[must_use]
    pub fn at(&self, row: usize, column: usize) -> f64 {
        if column >= self.size {
            return 0.0;
        }
        self.values.get(row * self.size + column).copied().unwrap_or(0.0)
    }

    /// Adds to one value; nothing outside.
    pub fn add(&mut self, row: usize, column: usize, value: f64) {
        if column < self.size
            && let Some(place) = self.values.get_mut(row * self.size + column)
        {
            *place += value;
        }
    }

    fn set(&mut self, row: usize, column: usize, value: f64) {
        if column < self.size
            && let Some(place) = self.values.get_mut(row * self.size + column)
        {
            *place = value;
        }
    }

    /// This matrix times a vector.
    #[must_use]
    pub fn times_vector(&self, vector: &[f64]) -> Vec<f64> {
        (0..self.size)
            .map(|row| vector.iter().enumerate().map(|(column, value)| self.at(row, column) * value).sum())
            .collect()
    }

    /// `self * middle * self` for symmetric `self`.
    #[must_use]
    pub fn sandwich(&self, middle: &Self) -> Self {
        self.times(middle).times(self)
    }

    fn times(&self, other: &Self) -> Self {
        let mut product = Self::zero(self.size);
        for row in 0..self.size {
            for inner in 0..self.size {
                let factor = self.at(row, inner);
                if factor != 0.0 {
                    for column in 0..self.size {
                        product.add(row, column, factor * other.at(inner, column));
                    }
                }
            }
        }
        product
    }

    /// The inverse of a symmetric positive definite matrix by Cholesky; `None` when it is not, within 1e-12 of its diagonal.
    #[must_use]
    pub fn inverse(&self) -> Option<Self> {
        let size = self.size;
        let mut lower = Self::zero(size);
        for row in 0..size {
            for column in 0..=row {
                let mut rest = self.at(row, column);
                for inner in 0..column {
                    rest -= lower.at(row, inner) * lower.at(column, inner);
                }
                if row == column {
                    if rest.is_nan() || rest <= self.at(row, row) * 1e-12 {
                        return None;
                    }
                    lower.set(row, row, libm::sqrt(rest));
                } else {
                    lower.set(row, column, rest / lower.at(column, column));
                }
            }
        }
        let mut inverse = Self::zero(size);
        for unit in 0..size {
            let mut forward = vec![0.0; size];
            for row in 0..size {
                let mut rest = if row == unit { 1.0 } else { 0.0 };
                for (inner, value) in forward.iter().enumerate().take(row) {
                    rest -= lower.at(row, inner) * value;
                }
                if let Some(place) = forward.get_mut(row) {
                    *place = rest / lower.at(row, row);
                }
            }
            for row in (0..size).rev() {
                let mut rest = forward.get(row).copied().unwrap_or(0.0);
                for inner in row + 1..size {
                    rest -= lower.at(inner, row) * inverse.at(inner, unit);
                }
                inverse.set(row, unit, rest / lower.at(row, row));
            }
        }
        Some(inverse)
    }
}
