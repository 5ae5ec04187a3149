"""These tests pass, and none of them leaks: no error happens that would."""


def test_a_seat_is_booked_once(desk, theatre):
    assert desk.book(theatre, 2, "Ada")
    assert not desk.book(theatre, 2, "Grace")
    assert desk.free(theatre) == [1, 3]


def test_two_people_change_places(desk, theatre):
    desk.book(theatre, 1, "Ada")
    desk.book(theatre, 2, "Grace")
    desk.swap(theatre, 1, 2)
    assert desk.free(theatre) == [3]
