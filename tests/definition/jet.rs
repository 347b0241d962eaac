//! Numbers that carry their derivatives by two directions and by both: hyper-dual numbers, exact to the last bits.

use std::ops::{Add, Div, Mul, Neg, Sub};

/// A number and its derivatives.
#[derive(Clone, Copy, Debug)]
pub struct Jet {
    pub value: f64,
    /// By the first direction and by the second.
    pub first: [f64; 2],
    /// By both.
    pub mixed: f64,
}

impl Jet {
    pub fn new(value: f64, first: [f64; 2]) -> Jet {
        Jet { value, first, mixed: 0.0 }
    }

    pub fn constant(value: f64) -> Jet {
        Jet::new(value, [0.0; 2])
    }

    /// A function of it, given the function's value and its first two derivatives there.
    fn under(self, value: f64, slope: f64, bend: f64) -> Jet {
        Jet {
            value,
            first: self.first.map(|first| slope * first),
            mixed: slope.mul_add(self.mixed, bend * self.first[0] * self.first[1]),
        }
    }

    pub fn sqrt(self) -> Jet {
        let root = self.value.sqrt();
        self.under(root, 0.5 / root, -0.25 / (root * self.value))
    }

    pub fn sin(self) -> Jet {
        let (sin, cos) = self.value.sin_cos();
        self.under(sin, cos, -sin)
    }

    pub fn asin(self) -> Jet {
        let rest = 1.0 - self.value * self.value;
        let cos = rest.sqrt();
        self.under(self.value.asin(), 1.0 / cos, self.value / (rest * cos))
    }

    fn inverse(self) -> Jet {
        let inverse = 1.0 / self.value;
        self.under(inverse, -inverse * inverse, 2.0 * inverse * inverse * inverse)
    }

    pub fn scaled(self, by: f64) -> Jet {
        self * Jet::constant(by)
    }
}

impl Add for Jet {
    type Output = Jet;
    fn add(self, b: Jet) -> Jet {
        let first = [self.first[0] + b.first[0], self.first[1] + b.first[1]];
        Jet { value: self.value + b.value, first, mixed: self.mixed + b.mixed }
    }
}

impl Neg for Jet {
    type Output = Jet;
    fn neg(self) -> Jet {
        Jet { value: -self.value, first: self.first.map(|first| -first), mixed: -self.mixed }
    }
}

impl Sub for Jet {
    type Output = Jet;
    fn sub(self, b: Jet) -> Jet {
        self + -b
    }
}

impl Mul for Jet {
    type Output = Jet;
    fn mul(self, b: Jet) -> Jet {
        let first = [0, 1].map(|k| self.first[k] * b.value + self.value * b.first[k]);
        let mixed =
            self.mixed * b.value + self.first[0] * b.first[1] + self.first[1] * b.first[0] + self.value * b.mixed;
        Jet { value: self.value * b.value, first, mixed }
    }
}

impl Div for Jet {
    type Output = Jet;
    // `self * b.inverse()` would round the value once more.
    #[allow(clippy::suspicious_arithmetic_impl)]
    fn div(self, b: Jet) -> Jet {
        Jet { value: self.value / b.value, ..self * b.inverse() }
    }
}
