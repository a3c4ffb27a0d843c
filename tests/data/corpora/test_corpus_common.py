import pytest

from speechdst.data.corpora import common
from speechdst.data.dialogue import BadInput


@pytest.mark.parametrize(
    ("tokenised", "expected"),
    [
        ("I do n't know .", "I don't know."),
        ("I 'm sorry , that 's all !", "I'm sorry, that's all!"),
        ("leaves at 10:45 ( arrives 10:38 ) .", "leaves at 10:45 (arrives 10:38)."),
        ("Queens ' College is open", "Queens' College is open"),
        ('Hmm .. How about " ask " ?', 'Hmm.. How about "ask"?'),
        ("Successful . \n Reference number \t : ABC", "Successful. Reference number: ABC"),
        ("I 'm gon na stay at 15 - 17 Norman way", "I'm gonna stay at 15 - 17 Norman way"),
        ("it costs .50 pounds", "it costs .50 pounds"),
        ("Already fine, isn't it?", "Already fine, isn't it?"),
    ],
)
def test_detokenise(tokenised, expected):
    assert common.detokenise(tokenised) == expected


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ("Cambridge ", "cambridge"),
        ("hotel|guesthouse", "hotel"),
        ("17:30>16:30", "17:30"),
        (["Thai", "thai food"], "thai"),
        ([], ""),
        (None, ""),
        (4, "4"),
        ("not mentioned", ""),
        ("none", ""),
        ("do n't care", "dontcare"),
        ("dont care", "dontcare"),
        ("Doesn\u2019t care", "dontcare"),
        ("dontcare", "dontcare"),
        ("careless inn", "careless inn"),
    ],
)
def test_slot_value(raw, expected):
    assert common.slot_value(raw) == expected


def test_slot_value_refuses_what_is_no_value():
    with pytest.raises(BadInput, match="is no string"):
        common.slot_value({"a": 1})


def test_slot_name():
    raw = ["leaveAt", "price range", "book people", "bookday", "book_stay", "name"]
    assert [common.slot_name(r) for r in raw] == [
        *("leaveat", "pricerange", "people", "day", "stay", "name")
    ]


def test_metadata_state_takes_train_tickets_as_people_unless_those_are_given():
    def train(**book):
        return common.metadata_state({"train": {"semi": {}, "book": {"booked": [], **book}}})

    assert train(ticket="4") == {"train": {"people": "4"}}
    assert train(people="7", ticket="4") == {"train": {"people": "7"}}
    assert train(people="", ticket="") == {}


def test_transcript():
    assert common.transcript("\"Don\u2019t,\" he said: 'WELL-known!'") == "don't he said well known"


@pytest.mark.parametrize("path", ["../secret.wav", "/etc/passwd", "a/../../secret.wav"])
def test_inside_refuses_paths_that_leave_the_folder(tmp_path, path):
    (tmp_path / "secret.wav").write_bytes(b"x")
    root = tmp_path / "corpus"
    (root / "a").mkdir(parents=True)
    with pytest.raises(BadInput, match="leaves the folder"):
        common.inside(root, path)


def test_inside_follows_links(tmp_path):
    root = tmp_path / "corpus"
    root.mkdir()
    (tmp_path / "secret.wav").write_bytes(b"x")
    (root / "link.wav").symlink_to(tmp_path / "secret.wav")
    with pytest.raises(BadInput, match="leaves the folder"):
        common.inside(root, "link.wav")


def test_want_names_the_field():
    with pytest.raises(BadInput, match=r"file f, record r, field log: expected a list, got 3"):
        common.want({"log": 3}, "log", list, file="f", id="r")
    with pytest.raises(BadInput, match="'log' is missing"):
        common.want({}, "log", list)
    with pytest.raises(BadInput, match="got True"):
        common.want({"start": True}, "start", (int, float))
    assert common.want({}, "log", (list, type(None))) is None
