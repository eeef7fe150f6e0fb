//! How well a net classifies, as Deeplearning4j's `Evaluation` tells it: accuracy, precision, recall and F1 of each class
//! and averaged over classes, and the confusion matrix.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Above so many classes, the tables show only the worst of them.
const MAX_TABLE_CLASSES: usize = 30;

/// How many classes, and how many pairs of classes, are shown where not all are.
const WORST: usize = 10;

/// Why predictions cannot be counted.
#[derive(Debug, PartialEq, thiserror::Error)]
pub enum EvaluationError {
    /// A label that is no class of the net.
    #[error(
        "label {label} at position {position} is no class of the net, which has {classes}: \
         labels are whole numbers from 0 to {}", classes.saturating_sub(1)
    )]
    Label {
        /// The label's index in its blob.
        position: usize,
        /// The label.
        label: f32,
        /// How many classes the net has.
        classes: usize,
    },
    /// Scores, labels and matrix that do not belong together.
    #[error(
        "{scores} scores and {labels} labels do not fit {outer} × {inner} positions of {classes} classes, counted in a \
         matrix of {matrix_classes}: give a score for each class and a label at each position"
    )]
    Shapes {
        /// The number of scores.
        scores: usize,
        /// The number of labels.
        labels: usize,
        /// The extent of the axes before the classes' axis.
        outer: usize,
        /// The extent of the axes after the classes' axis.
        inner: usize,
        /// The extent of the classes' axis.
        classes: usize,
        /// The classes of the matrix.
        matrix_classes: usize,
    },
    /// Two matrices of different nets.
    #[error("confusion matrices of {left} and {right} classes cannot be merged: evaluate nets with the same classes")]
    Merge {
        /// The classes of the matrix that was to grow.
        left: usize,
        /// The classes of the other.
        right: usize,
    },
}

/// How often each class was taken for each other: rows are the actual classes, columns the predicted ones.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfusionMatrix {
    classes: usize,
    counts: Vec<u64>,
}

impl ConfusionMatrix {
    /// A matrix that has seen nothing.
    pub fn new(classes: usize) -> Self {
        Self {
            classes,
            counts: vec![0; classes * classes],
        }
    }

    /// The number of classes.
    pub fn classes(&self) -> usize {
        self.classes
    }

    /// Counts a record of class `actual` that was taken for `predicted`.
    ///
    /// # Panics
    /// One of them is no class of the matrix; [`count_predictions`] checks what comes from data.
    pub fn add(&mut self, actual: usize, predicted: usize) {
        assert!(actual < self.classes && predicted < self.classes);
        self.counts[actual * self.classes + predicted] += 1;
    }

    /// How often class `actual` was taken for `predicted`.
    pub fn count(&self, actual: usize, predicted: usize) -> u64 {
        self.counts[actual * self.classes + predicted]
    }

    /// Adds what another matrix has counted: the records of another worker.
    ///
    /// # Errors
    /// The matrices have different numbers of classes.
    pub fn merge(&mut self, other: &Self) -> Result<(), EvaluationError> {
        if self.classes != other.classes {
            let (left, right) = (self.classes, other.classes);
            return Err(EvaluationError::Merge { left, right });
        }
        self.counts
            .iter_mut()
            .zip(&other.counts)
            .for_each(|(count, more)| *count += more);
        Ok(())
    }
}

/// Counts each position's predicted class, the first of the highest scores, against its label in `matrix`. A score that is
/// no number loses against every other; where all are, class 0 is predicted.
///
/// `scores` is `(outer, classes, inner)` and `labels` is `(outer, inner)`; positions labelled `ignore_label` are left out.
///
/// # Errors
/// A label that is no class, or extents that do not fit; the matrix may have counted the positions before.
pub fn count_predictions(
    scores: &[f32],
    labels: &[f32],
    outer: usize,
    classes: usize,
    inner: usize,
    ignore_label: Option<i32>,
    matrix: &mut ConfusionMatrix,
) -> Result<(), EvaluationError> {
    let positions = outer * inner;
    if scores.len() != positions * classes || labels.len() != positions || classes != matrix.classes {
        return Err(EvaluationError::Shapes {
            scores: scores.len(),
            labels: labels.len(),
            outer,
            inner,
            classes,
            matrix_classes: matrix.classes,
        });
    }
    for (position, &label) in labels.iter().enumerate() {
        if ignore_label.is_some_and(|ignored| label == ignored as f32) {
            continue;
        }
        // NaN fails every comparison, so it is an error too.
        if !(label >= 0.0 && label < classes as f32 && label.fract() == 0.0) {
            return Err(EvaluationError::Label {
                position,
                label,
                classes,
            });
        }
        let first = position / inner * classes * inner + position % inner;
        let score = |class: usize| scores[first + class * inner];
        let mut predicted = 0;
        for class in 1..classes {
            if score(class) > score(predicted) || (score(predicted).is_nan() && !score(class).is_nan()) {
                predicted = class;
            }
        }
        matrix.add(label as usize, predicted);
    }
    Ok(())
}

/// How well a net classifies. The averages are Deeplearning4j's macro averages: every class for which the value is defined
/// counts the same, the others are left out. (For two classes, Deeplearning4j's F1 is that of class 1 alone; here it is
/// an average as well.)
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    /// Records, or positions where a record has several labels.
    pub records: u64,
    /// The share of records whose class was predicted; none without records.
    pub accuracy: Option<f64>,
    /// The average over the classes that were predicted.
    pub precision: Option<f64>,
    /// The average over the classes that occur.
    pub recall: Option<f64>,
    /// The average over the classes that were predicted and occur.
    pub f1: Option<f64>,
    /// The classes, in order.
    pub classes: Vec<ClassEvaluation>,
    /// The confusion matrix: a row for each actual class, a column for each predicted one.
    pub confusion: Vec<Vec<u64>>,
}

/// How well a net tells one class from the others.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClassEvaluation {
    /// The class's name, or its number where it has none.
    pub label: String,
    /// How many records are of this class.
    pub support: u64,
    /// The share of the records taken for this class that are of it; none if it was never predicted.
    pub precision: Option<f64>,
    /// The share of the records of this class that were taken for it; none if it does not occur.
    pub recall: Option<f64>,
    /// The harmonic mean of precision and recall; none if one of them is.
    pub f1: Option<f64>,
}

impl Evaluation {
    /// What `matrix` says. `labels` names the classes, in order; a class without a name is called by its number.
    pub fn new(matrix: &ConfusionMatrix, labels: Option<&[String]>) -> Self {
        let confusion: Vec<Vec<u64>> = (0..matrix.classes)
            .map(|actual| {
                (0..matrix.classes)
                    .map(|predicted| matrix.count(actual, predicted))
                    .collect()
            })
            .collect();
        let mut predictions = vec![0; matrix.classes];
        for row in &confusion {
            predictions.iter_mut().zip(row).for_each(|(sum, count)| *sum += count);
        }
        let classes: Vec<ClassEvaluation> = confusion
            .iter()
            .enumerate()
            .map(|(class, row)| {
                let support = row.iter().sum();
                let precision = share(row[class], predictions[class]);
                let recall = share(row[class], support);
                let name = labels.and_then(|labels| labels.get(class));
                ClassEvaluation {
                    label: name.cloned().unwrap_or_else(|| class.to_string()),
                    support,
                    precision,
                    recall,
                    f1: precision.zip(recall).map(harmonic_mean),
                }
            })
            .collect();
        let records = classes.iter().map(|class| class.support).sum();
        let correct = (0..matrix.classes).map(|class| matrix.count(class, class)).sum();
        Self {
            records,
            accuracy: share(correct, records),
            precision: average(classes.iter().filter_map(|class| class.precision)),
            recall: average(classes.iter().filter_map(|class| class.recall)),
            f1: average(classes.iter().filter_map(|class| class.f1)),
            classes,
            confusion,
        }
    }

    /// The classes that occur, from the lowest F1 up; a class that was never predicted comes first.
    fn worst_classes(&self) -> Vec<(usize, &ClassEvaluation)> {
        let mut classes: Vec<_> = self.classes.iter().enumerate().collect();
        classes.retain(|(_, class)| class.support > 0);
        classes.sort_by(|(_, a), (_, b)| a.f1.unwrap_or(-1.0).total_cmp(&b.f1.unwrap_or(-1.0)));
        classes.truncate(WORST);
        classes
    }

    /// The pairs (actual, predicted, count) of different classes, from the most frequent down.
    fn confused_pairs(&self) -> Vec<(usize, usize, u64)> {
        let mut pairs = Vec::new();
        for (actual, row) in self.confusion.iter().enumerate() {
            for (predicted, &count) in row.iter().enumerate() {
                if actual != predicted && count > 0 {
                    pairs.push((actual, predicted, count));
                }
            }
        }
        pairs.sort_by_key(|&(.., count)| std::cmp::Reverse(count));
        pairs.truncate(WORST);
        pairs
    }

    /// A class in the tables: its number, and its name where it has one.
    fn title(&self, class: usize) -> String {
        match &self.classes[class].label {
            label if *label == class.to_string() => label.clone(),
            label => format!("{class} {label}"),
        }
    }

    fn class_table(&self, f: &mut fmt::Formatter<'_>, classes: &[usize]) -> fmt::Result {
        let titles: Vec<String> = classes.iter().map(|&class| self.title(class)).collect();
        let width = column_width("class", &titles);
        writeln!(
            f,
            " {:width$}  {:>9}  {:>9}  {:>9}  {:>9}",
            "class", "support", "precision", "recall", "F1"
        )?;
        for (&class, title) in classes.iter().zip(&titles) {
            let class = &self.classes[class];
            writeln!(
                f,
                " {title:width$}  {:>9}  {:>9}  {:>9}  {:>9}",
                class.support,
                decimals(class.precision),
                decimals(class.recall),
                decimals(class.f1)
            )?;
        }
        Ok(())
    }

    fn confusion_table(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let titles: Vec<String> = (0..self.classes.len()).map(|class| self.title(class)).collect();
        let title_width = column_width("actual", &titles);
        let largest = self.confusion.iter().flatten().max().copied().unwrap_or(0);
        let width = largest.to_string().len().max(self.classes.len().to_string().len()) + 2;
        write!(f, " {:title_width$} │", "actual")?;
        for class in 0..self.classes.len() {
            write!(f, "{class:>width$}")?;
        }
        let line = |count: usize| "─".repeat(count);
        writeln!(
            f,
            " ← predicted\n {}─┼{}",
            line(title_width),
            line(width * self.classes.len() + 12)
        )?;
        for (title, row) in titles.iter().zip(&self.confusion) {
            write!(f, " {title:title_width$} │")?;
            row.iter().try_for_each(|count| write!(f, "{count:>width$}"))?;
            writeln!(f)?;
        }
        Ok(())
    }
}

impl fmt::Display for Evaluation {
    /// Tables for a terminal: the scores, each class, and the confusion matrix.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let defined = |value: fn(&ClassEvaluation) -> Option<f64>| {
            let count = self.classes.iter().filter(|class| value(class).is_some()).count();
            match self.classes.len() {
                classes if classes == count => format!("average of {classes} classes"),
                classes => format!("average of {count} of {classes} classes, undefined for the others"),
            }
        };
        let average = |f: &mut fmt::Formatter<'_>, name: &str, value, classes: String| {
            writeln!(f, " {name:9}  {:>8}  ({classes})", decimals(value))
        };
        heading(f, "scores")?;
        writeln!(f, " {:9}  {:>8}", "records", self.records)?;
        writeln!(f, " {:9}  {:>8}", "accuracy", decimals(self.accuracy))?;
        average(f, "precision", self.precision, defined(|class| class.precision))?;
        average(f, "recall", self.recall, defined(|class| class.recall))?;
        average(f, "F1", self.f1, defined(|class| class.f1))?;
        if self.classes.len() <= MAX_TABLE_CLASSES {
            heading(f, "classes")?;
            self.class_table(f, &(0..self.classes.len()).collect::<Vec<_>>())?;
            heading(f, "confusion matrix")?;
            return self.confusion_table(f);
        }

        let worst: Vec<usize> = self.worst_classes().into_iter().map(|(class, _)| class).collect();
        heading(f, &format!("worst {} of {} classes", worst.len(), self.classes.len()))?;
        self.class_table(f, &worst)?;
        heading(f, "most confused classes")?;
        let pairs = self.confused_pairs();
        if pairs.is_empty() {
            writeln!(f, " none")?;
        }
        let actual: Vec<String> = pairs.iter().map(|&(actual, ..)| self.title(actual)).collect();
        let width = column_width("", &actual);
        for (&(_, predicted, count), actual) in pairs.iter().zip(&actual) {
            writeln!(f, " {count:>9} × {actual:width$} taken for {}", self.title(predicted))?;
        }
        Ok(())
    }
}

fn heading(f: &mut fmt::Formatter<'_>, title: &str) -> fmt::Result {
    writeln!(f, "═══ {title} {}", "═".repeat(60_usize.saturating_sub(title.len())))
}

fn column_width(title: &str, cells: &[String]) -> usize {
    let cells = cells.iter().map(|cell| cell.chars().count());
    cells.max().unwrap_or(0).max(title.len())
}

fn decimals(value: Option<f64>) -> String {
    value.map_or("–".to_owned(), |value| format!("{value:.4}"))
}

fn share(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}

fn harmonic_mean((a, b): (f64, f64)) -> f64 {
    if a + b == 0.0 { 0.0 } else { 2.0 * a * b / (a + b) }
}

fn average(values: impl Iterator<Item = f64>) -> Option<f64> {
    let (count, sum) = values.fold((0_u64, 0.0), |(count, sum), value| (count + 1, sum + value));
    (count > 0).then(|| sum / count as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matrix(rows: &[&[u64]]) -> ConfusionMatrix {
        ConfusionMatrix {
            classes: rows.len(),
            counts: rows.concat(),
        }
    }

    fn close(value: Option<f64>, expected: f64) {
        assert!((value.unwrap() - expected).abs() < 5e-5, "{value:?} is not {expected}");
    }

    /// The example of Deeplearning4j's documentation: three kinds of iris, and what it prints of them.
    #[test]
    fn averages_are_those_of_deeplearning4js_example() {
        let evaluation = Evaluation::new(&matrix(&[&[24, 0, 0], &[0, 11, 1], &[0, 0, 17]]), None);
        assert_eq!(evaluation.records, 53);
        close(evaluation.accuracy, 0.9811);
        close(evaluation.precision, 0.9815);
        close(evaluation.recall, 0.9722);
        close(evaluation.f1, 0.9760);
        close(evaluation.classes[1].recall, 11.0 / 12.0);
        close(evaluation.classes[2].precision, 17.0 / 18.0);
        assert_eq!(evaluation.classes[2].support, 17);
    }

    #[test]
    fn undefined_values_are_left_out_of_the_averages() {
        // Class 1 occurs but is never predicted, class 2 is predicted but does not occur, class 3 does neither.
        let evaluation = Evaluation::new(
            &matrix(&[&[6, 0, 2, 0], &[2, 0, 0, 0], &[0, 0, 0, 0], &[0, 0, 0, 0]]),
            None,
        );
        let class = |index: usize| &evaluation.classes[index];
        assert_eq!((class(0).precision, class(0).recall), (Some(0.75), Some(0.75)));
        assert_eq!(
            (class(1).precision, class(1).recall, class(1).f1),
            (None, Some(0.0), None)
        );
        assert_eq!(
            (class(2).precision, class(2).recall, class(2).f1),
            (Some(0.0), None, None)
        );
        assert_eq!((class(3).precision, class(3).recall), (None, None));
        close(evaluation.precision, 0.375);
        close(evaluation.recall, 0.375);
        close(evaluation.f1, 0.75);
    }

    #[test]
    fn a_class_that_is_always_mistaken_has_f1_0() {
        let evaluation = Evaluation::new(&matrix(&[&[0, 3], &[2, 0]]), None);
        assert_eq!(evaluation.classes[0].f1, Some(0.0));
        assert_eq!(evaluation.f1, Some(0.0));
    }

    #[test]
    fn nothing_seen_is_nothing_defined() {
        let evaluation = Evaluation::new(&ConfusionMatrix::new(3), None);
        assert_eq!(
            (evaluation.records, evaluation.accuracy, evaluation.f1),
            (0, None, None)
        );
        assert!(evaluation.to_string().contains("–"));
    }

    #[test]
    fn predictions_are_counted_along_the_class_axis() {
        // (outer 2, classes 3, inner 2): the columns are positions.
        #[rustfmt::skip]
        let scores = [
            0.1, 0.5,
            0.7, 0.5,
            0.2, 0.1,

            9.0, f32::NAN,
            0.0, -3.0,
            0.0, -4.0,
        ];
        let mut counted = ConfusionMatrix::new(3);
        count_predictions(&scores, &[1.0, 2.0, 255.0, 0.0], 2, 3, 2, Some(255), &mut counted).unwrap();
        // The tie of position 1 goes to class 0; position 2 is ignored; NaN at position 3 loses.
        assert_eq!(counted, matrix(&[&[0, 1, 0], &[0, 1, 0], &[1, 0, 0]]));
    }

    #[test]
    fn a_label_that_is_no_class_is_named() {
        let scores = [0.5; 8];
        for label in [4.0, -1.0, 1.5, f32::NAN] {
            let mut counted = ConfusionMatrix::new(4);
            let error = count_predictions(&scores, &[3.0, label], 2, 4, 1, None, &mut counted).unwrap_err();
            let message = error.to_string();
            assert_eq!(
                message,
                format!(
                    "label {label} at position 1 is no class of the net, which has 4: \
                     labels are whole numbers from 0 to 3"
                )
            );
        }
    }

    #[test]
    fn extents_that_do_not_fit_are_refused() {
        let count = |scores: usize, labels: usize, matrix_classes| {
            let (scores, labels) = (vec![0.0; scores], vec![0.0; labels]);
            count_predictions(
                &scores,
                &labels,
                2,
                4,
                1,
                None,
                &mut ConfusionMatrix::new(matrix_classes),
            )
        };
        assert!(count(8, 2, 4).is_ok());
        for (scores, labels, classes) in [(7, 2, 4), (8, 3, 4), (8, 2, 5)] {
            assert!(matches!(
                count(scores, labels, classes),
                Err(EvaluationError::Shapes { .. })
            ));
        }
    }

    #[test]
    fn workers_matrices_add_up() {
        let mut left = matrix(&[&[1, 2], &[3, 4]]);
        left.merge(&matrix(&[&[10, 0], &[0, 20]])).unwrap();
        assert_eq!(left, matrix(&[&[11, 2], &[3, 24]]));
        let error = left.merge(&ConfusionMatrix::new(3)).unwrap_err();
        assert_eq!(error, EvaluationError::Merge { left: 2, right: 3 });
    }

    #[test]
    fn json_keeps_everything() {
        let names = ["cat".to_owned(), "dog".to_owned()];
        let evaluation = Evaluation::new(&matrix(&[&[5, 0], &[0, 0]]), Some(&names));
        let json = serde_json::to_string(&evaluation).unwrap();
        assert!(
            json.contains(r#"{"label":"dog","support":0,"precision":null,"recall":null,"f1":null}"#),
            "{json}"
        );
        assert!(json.contains(r#""confusion":[[5,0],[0,0]]"#), "{json}");
        assert_eq!(serde_json::from_str::<Evaluation>(&json).unwrap(), evaluation);
    }

    #[test]
    fn tables_line_up() {
        let names = ["T-shirt", "Trouser", "Käse"].map(str::to_owned);
        let evaluation = Evaluation::new(&matrix(&[&[900, 95, 0], &[7, 1000, 3], &[0, 0, 0]]), Some(&names));
        let expected = "\
═══ scores ══════════════════════════════════════════════════════
 records        2005
 accuracy     0.9476
 precision    0.6352  (average of 3 classes)
 recall       0.9473  (average of 2 of 3 classes, undefined for the others)
 F1           0.9482  (average of 2 of 3 classes, undefined for the others)
═══ classes ═════════════════════════════════════════════════════
 class        support  precision     recall         F1
 0 T-shirt        995     0.9923     0.9045     0.9464
 1 Trouser       1010     0.9132     0.9901     0.9501
 2 Käse             0     0.0000          –          –
═══ confusion matrix ════════════════════════════════════════════
 actual    │     0     1     2 ← predicted
 ──────────┼──────────────────────────────
 0 T-shirt │   900    95     0
 1 Trouser │     7  1000     3
 2 Käse    │     0     0     0
";
        assert_eq!(evaluation.to_string(), expected);
    }

    #[test]
    fn many_classes_are_shown_by_their_worst() {
        let mut many = ConfusionMatrix::new(100);
        for class in 0..100 {
            (0..20).for_each(|_| many.add(class, class));
        }
        (0..7).for_each(|_| many.add(42, 17));
        many.add(3, 4);
        let text = Evaluation::new(&many, None).to_string();
        assert!(text.lines().count() < 30, "{text}");
        assert!(text.contains("═══ worst 10 of 100 classes"), "{text}");
        assert!(text.contains("\n 42            27     1.0000     0.7407"), "{text}");
        assert!(
            text.contains("\n         7 × 42 taken for 17\n         1 × 3  taken for 4\n"),
            "{text}"
        );
    }
}
