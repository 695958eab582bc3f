//! The quantile function of the standard normal distribution, to 1e-15.
//!
//! Rational approximations in three regions. Only +, −, ×, ÷ and √ are used, which IEEE 754 fixes
//! to the last bit, so the same probability gives the same bits on every machine; the library
//! logarithm does not promise that. Source: Wichura 1988, algorithm AS 241 (PPND16).

#![allow(clippy::excessive_precision, reason = "the coefficients as they are published")]

const CENTRE: ([f64; 8], [f64; 8]) = (
    [
        2509.0809287301226727,
        33430.575583588128105,
        67265.770927008700853,
        45921.953931549871457,
        13731.693765509461125,
        1971.5909503065514427,
        133.14166789178437745,
        3.3871328727963666080,
    ],
    [
        5226.4952788528545610,
        28729.085735721942674,
        39307.895800092710610,
        21213.794301586595867,
        5394.1960214247511077,
        687.18700749205790830,
        42.313330701600911252,
        1.0,
    ],
);
const TAIL: ([f64; 8], [f64; 8]) = (
    [
        7.7454501427834140764e-4,
        0.0227238449892691845833,
        0.241780725177450611770,
        1.27045825245236838258,
        3.64784832476320460504,
        5.76949722146069140550,
        4.63033784615654529590,
        1.42343711074968357734,
    ],
    [
        1.05075007164441684324e-9,
        5.475938084995344946e-4,
        0.0151986665636164571966,
        0.148103976427480074590,
        0.689767334985100004550,
        1.67638483018380384940,
        2.05319162663775882187,
        1.0,
    ],
);
const FAR_TAIL: ([f64; 8], [f64; 8]) = (
    [
        2.01033439929228813265e-7,
        2.71155556874348757815e-5,
        0.00124266094738807843860,
        0.0265321895265761230930,
        0.296560571828504891230,
        1.78482653991729133580,
        5.46378491116411436990,
        6.65790464350110377720,
    ],
    [
        2.04426310338993978564e-15,
        1.4215117583164458887e-7,
        1.8463183175100546818e-5,
        7.868691311456132591e-4,
        0.0148753612908506148525,
        0.136929880922735805310,
        0.599832206555887937690,
        1.0,
    ],
);

/// The x with `P(normal ≤ x) = p`, for 0 < p < 1.
#[inline]
pub(super) fn normal(p: f64) -> f64 {
    let q = p - 0.5;
    if q.abs() <= 0.425 {
        return q * ratio(&CENTRE, 0.180_625 - q * q);
    }
    tail(p)
}

fn tail(p: f64) -> f64 {
    let r = (-ln(p.min(1.0 - p))).sqrt();
    let x = if r <= 5.0 { ratio(&TAIL, r - 1.6) } else { ratio(&FAR_TAIL, r - 5.0) };
    if p < 0.5 { -x } else { x }
}

#[inline]
fn ratio((numerator, denominator): &([f64; 8], [f64; 8]), r: f64) -> f64 {
    let horner = |c: &[f64; 8]| c.iter().fold(0.0, |sum, c| sum * r + c);
    horner(numerator) / horner(denominator)
}

/// The natural logarithm of a normal positive number: `ln(m·2^e) = e·ln 2 + 2·artanh((m−1)/(m+1))`.
fn ln(x: f64) -> f64 {
    let bits = x.to_bits();
    let mut exponent = (bits >> 52) as i32 - 1023;
    let mut mantissa = f64::from_bits((bits & ((1 << 52) - 1)) | (1023 << 52));
    if mantissa > std::f64::consts::SQRT_2 {
        mantissa *= 0.5;
        exponent += 1;
    }
    let s = (mantissa - 1.0) / (mantissa + 1.0);
    let z = s * s;
    let mut series = 0.0;
    for k in (0..12u32).rev() {
        series = series * z + 1.0 / f64::from(2 * k + 1);
    }
    f64::from(exponent) * std::f64::consts::LN_2 + 2.0 * s * series
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_match_published_values() {
        // Python's statistics.NormalDist().inv_cdf and the tables.
        for (p, x) in [
            (0.5, 0.0),
            (0.975, 1.959_963_984_540_054),
            (0.25, -0.674_489_750_196_081_7),
            (0.001, -3.090_232_306_167_813),
            (1e-9, -5.997_807_015_007_686_5),
            (1e-12, -7.034_483_825_301_131_5),
            (1.0 - 1e-3, 3.090_232_306_167_813),
        ] {
            assert!((normal(p) - x).abs() < 1e-13 * (1.0 + x.abs()), "{p}: {} {x}", normal(p));
        }
    }

    #[test]
    fn own_logarithm_agrees_with_the_library() {
        let mut x = 1e-300;
        while x < 1e300 {
            assert!((ln(x) - x.ln()).abs() <= 4e-16 * x.ln().abs() + 1e-16, "{x}");
            x *= 1.3456;
        }
    }

    #[test]
    fn quantiles_increase() {
        let mut before = f64::NEG_INFINITY;
        for i in 0..100_000u32 {
            let x = normal((f64::from(i) + 0.5) / 1e5);
            assert!(x > before, "{i}");
            before = x;
        }
    }
}
