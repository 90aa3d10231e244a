"""Where many rows come from, in little memory."""

from array import array


class Names:
    """Where each row comes from, by its place from 0; 12 bytes a row, whatever the files' names."""

    def __init__(self) -> None:
        """Start without rows."""
        self._labels: dict[str, int] = {}
        self._spelt: list[str] = []
        self._label, self._number = array("I"), array("q")

    def add(self, name: str) -> None:
        """Take in the next row's name: ``train.jsonl row 12``."""
        label, _, number = name.rpartition("row ")
        if not number.isdecimal():
            label, number = name, "-1"
        if label not in self._labels:
            self._labels[label] = len(self._spelt)
            self._spelt.append(label)
        self._label.append(self._labels[label])
        self._number.append(int(number))

    def __getitem__(self, place: int) -> str:
        """The name of the row at a place."""
        label, number = self._spelt[self._label[place]], self._number[place]
        return f"{label}row {number}" if number >= 0 else label
