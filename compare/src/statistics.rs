//! Medians, and how far they can be trusted.

use crate::model::Figure;

/// How often the samples are drawn anew.
const RESAMPLES: usize = 2000;

/// Where the draws begin, so that the same samples have the same interval.
const SEED: u64 = 0x7663_746c;

/// Of fewer samples, the bootstrap's intervals are too narrow: of two, half of them miss.
pub const ENOUGH: usize = 5;

impl Figure {
    /// Sums up samples; there are none of none.
    pub fn of(samples: Vec<f64>) -> Option<Self> {
        let mut sorted = samples.clone();
        sorted.retain(|sample| sample.is_finite());
        if sorted.is_empty() || sorted.len() < samples.len() {
            return None;
        }
        sorted.sort_by(f64::total_cmp);
        let (low, high) = match sorted.as_slice() {
            [low, .., high] if sorted.len() < ENOUGH => (*low, *high),
            _ => bootstrap(&sorted),
        };
        let outliers = outliers(&samples, &sorted);
        Some(Self { median: quantile(&sorted, 0.5), low, high, outliers, samples })
    }
}

/// The 95 % interval of the median, by the percentile bootstrap.
fn bootstrap(sorted: &[f64]) -> (f64, f64) {
    let mut draws = fastrand::Rng::with_seed(SEED);
    let mut medians: Vec<f64> = (0..RESAMPLES)
        .map(|_| {
            let mut drawn: Vec<f64> =
                (0..sorted.len()).map(|_| sorted[draws.usize(..sorted.len())]).collect();
            drawn.sort_by(f64::total_cmp);
            quantile(&drawn, 0.5)
        })
        .collect();
    medians.sort_by(f64::total_cmp);
    (quantile(&medians, 0.025), quantile(&medians, 0.975))
}

/// The 95 % interval of the ratio of two medians, the second by the first, by the percentile
/// bootstrap; none where the first one's may be 0.
pub fn ratio_interval(old: &[f64], new: &[f64]) -> Option<(f64, f64)> {
    let mut draws = fastrand::Rng::with_seed(SEED);
    let mut median = |samples: &[f64]| {
        let mut drawn: Vec<f64> =
            samples.iter().map(|_| samples[draws.usize(..samples.len())]).collect();
        drawn.sort_by(f64::total_cmp);
        quantile(&drawn, 0.5)
    };
    if old.is_empty() || new.is_empty() {
        return None;
    }
    let mut ratios: Vec<f64> = (0..RESAMPLES).map(|_| median(new) / median(old)).collect();
    ratios.sort_by(f64::total_cmp);
    let interval = (quantile(&ratios, 0.025), quantile(&ratios, 0.975));
    (ratios.iter().all(|ratio| ratio.is_finite())).then_some(interval)
}

/// Which samples are beyond Tukey's fences. Of fewer than four nothing can be said.
fn outliers(samples: &[f64], sorted: &[f64]) -> Vec<u32> {
    if sorted.len() < 4 {
        return Vec::new();
    }
    let (first, third) = (quantile(sorted, 0.25), quantile(sorted, 0.75));
    let fence = 1.5 * (third - first);
    let beyond = |sample: f64| sample < first - fence || sample > third + fence;
    (0..).zip(samples).filter(|(_, sample)| beyond(**sample)).map(|(index, _)| index).collect()
}

/// A quantile of sorted numbers, interpolated between the two that are next to it.
pub fn quantile(sorted: &[f64], fraction: f64) -> f64 {
    let Some(last) = sorted.len().checked_sub(1) else { return f64::NAN };
    let place = fraction.clamp(0.0, 1.0) * last as f64;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it's 0 to last")]
    let lower = place.floor() as usize;
    let upper = (lower + 1).min(last);
    let part = place - place.floor();
    sorted[lower] * (1.0 - part) + sorted[upper] * part
}

/// The slope of the straight line through points that has the least squares; none of fewer than two
/// places.
pub fn slope(points: &[(f64, f64)]) -> Option<f64> {
    let count = points.len() as f64;
    let mean = |of: fn(&(f64, f64)) -> f64| points.iter().map(of).sum::<f64>() / count;
    let (mean_x, mean_y) = (mean(|point| point.0), mean(|point| point.1));
    let spread: f64 = points.iter().map(|(x, _)| (x - mean_x).powi(2)).sum();
    let both: f64 = points.iter().map(|(x, y)| (x - mean_x) * (y - mean_y)).sum();
    (spread > 0.0).then(|| both / spread)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn median_is_the_middle_or_between_the_two_middle_ones() {
        assert_eq!(Figure::of(vec![3.0, 1.0, 2.0]).unwrap().median, 2.0);
        assert_eq!(Figure::of(vec![4.0, 1.0, 2.0, 3.0]).unwrap().median, 2.5);
        assert_eq!(Figure::of(Vec::new()), None);
        assert_eq!(Figure::of(vec![1.0, f64::NAN]), None);
    }

    #[test]
    fn interval_holds_the_median_and_is_narrow_where_samples_agree() {
        let narrow = Figure::of((0..30).map(|n| 100.0 + f64::from(n % 3)).collect()).unwrap();
        let wide = Figure::of((0..30).map(|n| 100.0 + f64::from(n * 10)).collect()).unwrap();
        for figure in [&narrow, &wide] {
            assert!(figure.low <= figure.median && figure.median <= figure.high, "{figure:?}");
        }
        assert!(wide.high - wide.low > 10.0 * (narrow.high - narrow.low));
        let alone = Figure::of(vec![5.0]).unwrap();
        assert_eq!((alone.low, alone.high), (5.0, 5.0));
    }

    #[test]
    fn interval_of_a_ratio_holds_it_and_excludes_1_only_where_samples_are_apart() {
        let around = |middle: f64| (0..20).map(|n| middle + f64::from(n % 5)).collect::<Vec<_>>();
        let (low, high) = ratio_interval(&around(100.0), &around(200.0)).unwrap();
        assert!(low <= 202.0 / 102.0 && 202.0 / 102.0 <= high && low > 1.9, "{low} {high}");
        let (low, high) = ratio_interval(&around(100.0), &around(100.0)).unwrap();
        assert!(low <= 1.0 && 1.0 <= high, "{low} {high}");
        assert_eq!(ratio_interval(&[0.0, 0.0], &[1.0]), None);
        assert_eq!(ratio_interval(&[], &[1.0]), None);
    }

    #[test]
    fn few_samples_have_their_range() {
        let ends = |samples: &[f64]| {
            let figure = Figure::of(samples.to_vec()).unwrap();
            (figure.low, figure.high)
        };
        assert_eq!(ends(&[7.0]), (7.0, 7.0));
        assert_eq!(ends(&[3.0, 1.0]), (1.0, 3.0));
        assert_eq!(ends(&[2.0, 9.0, 1.0, 3.0]), (1.0, 9.0));
    }

    #[test]
    fn the_same_samples_have_the_same_interval() {
        let samples: Vec<f64> = (0..20).map(|n| f64::from(n * n)).collect();
        assert_eq!(Figure::of(samples.clone()), Figure::of(samples));
    }

    #[test]
    fn outliers_are_shown_and_not_dropped() {
        let figure = Figure::of(vec![10.0, 11.0, 300.0, 10.5, 9.5, 10.2]).unwrap();
        assert_eq!(figure.outliers, [2]);
        assert_eq!(figure.samples.len(), 6);
        assert!(Figure::of(vec![1.0, 2.0, 500.0]).unwrap().outliers.is_empty());
    }

    #[test]
    fn slope_is_the_lines() {
        assert_eq!(slope(&[(1.0, 5.0), (2.0, 7.0), (3.0, 9.0)]), Some(2.0));
        assert_eq!(slope(&[(1.0, 5.0), (1.0, 7.0)]), None);
        assert_eq!(slope(&[]), None);
    }
}
