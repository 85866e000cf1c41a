"""Which class of a taxonomy a document belongs to, by the nearest description of one.

Source: classification without examples by embeddings of descriptions (Yin et al. 2019, arXiv:1909.00161, and the common
practice since sentence embeddings); taxonomies of topics and formats for pretraining are WebOrganizer's (Wettig et al.
2025, arXiv:2502.10341). The packaged taxonomies are ours: `packaged:stages` (six stages of education),
`packaged:thinking` (six kinds of thinking, after Bloom's), and both together, `packaged:stages_and_thinking`.

Unit: a word; of `_similarity` a cosine, of `_margin` a difference of cosines. Range: the taxonomy's labels; -1 to 1; 0
to 2. A high similarity means closer to the description; a high margin means a surer label (better).

It is worth what the embedding and the descriptions are worth: try it on documents whose class you know.
"""

from dataclasses import dataclass
from typing import Annotated

import numpy as np
import pyarrow as pa

from selector.rate import Columns, Meaning, Rater, TextsPath
from selector.rate._taxonomy import check, cosines


@dataclass(frozen=True, kw_only=True)
class Topic(Rater):
    """The label of the description that is most like the document, by cosine; with its similarity and its margin.

    `taxonomy` is a table with a `text` that describes a class and its `label`; a class may have several texts. The
    margin is over the most similar text of another class. Of two equally similar texts the first one counts.
    """

    taxonomy: Annotated[TextsPath, Columns(text="string", label="string")]

    @property
    def needs(self) -> tuple[str, ...]:
        return ("embedding",)

    def scores(self, name: str) -> dict[str, Meaning]:
        return {name: "label", f"{name}_similarity": "closer", f"{name}_margin": "better"}

    def prepare(self) -> None:
        check(self.taxonomy.table, "topic.taxonomy")

    def rate(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        labels = np.array(self.taxonomy.table["label"].fill_null("").to_pylist(), object)
        similarity = cosines(batch, self.taxonomy.table)
        best = similarity.argmax(axis=1)
        nearest = similarity[np.arange(len(best)), best]
        is_other = labels[None, :] != labels[best][:, None]
        second = np.where(is_other, similarity, -np.inf).max(axis=1)
        margin = np.where(np.isfinite(second), nearest - second, np.nan)
        return pa.record_batch(
            {
                "score": pa.array(labels[best].tolist(), pa.string()),
                "score_similarity": nearest,
                "score_margin": pa.array(margin, mask=np.isnan(margin)),
            }
        )
