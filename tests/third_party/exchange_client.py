"""exchangelib, a client that real Exchange servers know, against the simulated one.

    exchange_client.py URL ACCOUNT PASSWORD MAILBOX

Ends with 0 when it understands whatever the simulated servers say. The mailbox has one busy meeting at
2026-11-23 09:00 to 10:00 UTC, and somebody creates another one as soon as a stream or a callback stands.
"""

import sys
import threading
from datetime import datetime, timezone
from http.server import BaseHTTPRequestHandler, HTTPServer

from exchangelib import BASIC, IMPERSONATION, Account, Configuration, Credentials, EWSDateTime, EWSTimeZone
from exchangelib.errors import EWSError
from exchangelib.fields import FieldPath
from exchangelib.items import ID_ONLY, SHALLOW, CalendarItem
from exchangelib.properties import (
    CalendarView,
    CreatedEvent,
    DaylightTime,
    DistinguishedFolderId,
    FreeBusyViewOptions,
    Mailbox,
    MailboxData,
    StandardTime,
    StatusEvent,
    TimeWindow,
    TimeZone,
)
from exchangelib.services import (
    FindItem,
    GetEvents,
    GetStreamingEvents,
    GetUserAvailability,
    SendNotification,
    SubscribeToPull,
    SubscribeToPush,
    SubscribeToStreaming,
    Unsubscribe,
)
from exchangelib.version import EXCHANGE_2013_SP1, Version

EVENTS = ["CreatedEvent", "ModifiedEvent", "DeletedEvent", "MovedEvent", "CopiedEvent"]
UTC = EWSTimeZone("UTC")
START, END = EWSDateTime(2026, 11, 23, tzinfo=UTC), EWSDateTime(2026, 11, 24, tzinfo=UTC)


def main(url, name, password, mailbox):
    config = Configuration(
        service_endpoint=url,
        credentials=Credentials(name, password),
        auth_type=BASIC,
        version=Version(EXCHANGE_2013_SP1),
    )
    account = Account(mailbox, config=config, autodiscover=False, access_type=IMPERSONATION, default_timezone=UTC)
    reads_the_calendar(account)
    reads_availability(account, mailbox)
    pulls(account)
    streams(account)
    is_called_back(account)


def calendar(account):
    mailbox = Mailbox(email_address=account.primary_smtp_address)
    return [DistinguishedFolderId(id="calendar", mailbox=mailbox)]


def reads_the_calendar(account):
    names = ["start", "end", "legacy_free_busy_status", "is_all_day", "is_cancelled", "my_response_type", "type"]
    fields = [FieldPath(field=CalendarItem.get_field_by_fieldname(name)) for name in names]
    found = FindItem(account=account, page_size=100).call(
        folders=calendar(account),
        additional_fields=fields,
        restriction=None,
        order_fields=None,
        shape=ID_ONLY,
        query_string=None,
        depth=SHALLOW,
        calendar_view=CalendarView(start=START, end=END, max_items=100),
        max_items=None,
        offset=0,
    )
    (item,) = found
    assert isinstance(item, CalendarItem), item
    assert item.start.hour == 9 and item.end.hour == 10, item
    assert item.legacy_free_busy_status == "Busy" and item.type == "Single" and not item.is_all_day, item
    assert not item.is_cancelled and item.my_response_type == "Organizer", item


def reads_availability(account, mailbox):
    midnight = datetime(2026, 1, 1).time()
    rule = {"bias": 0, "time": midnight, "occurrence": 1, "weekday": "Sunday"}
    views = GetUserAvailability(account.protocol).call(
        tzinfo=UTC,
        mailbox_data=[
            MailboxData(email=address, attendee_type="Required", exclude_conflicts=False)
            for address in (mailbox, "nobody@example.com")
        ],
        timezone=TimeZone(
            bias=0,
            standard_time=StandardTime(iso_month=1, **rule),
            daylight_time=DaylightTime(iso_month=7, **rule),
        ),
        free_busy_view_options=FreeBusyViewOptions(
            time_window=TimeWindow(start=START, end=END), merged_free_busy_interval=15, requested_view="FreeBusy"
        ),
    )
    known, unknown = views
    (event,) = known.calendar_events
    assert event.start.hour == 9 and event.busy_type == "Busy", event
    assert isinstance(unknown, EWSError), unknown


def pulls(account):
    ((subscription, watermark),) = SubscribeToPull(account=account).call(
        folders=calendar(account), event_types=EVENTS, watermark=None, timeout=10
    )
    (told,) = GetEvents(account=account).call(subscription_id=subscription, watermark=watermark)
    assert told.previous_watermark == watermark, told
    assert all(isinstance(event, StatusEvent) for event in told.events), told
    assert list(Unsubscribe(account=account).call(subscription_id=subscription)) is not None
    try:
        list(Unsubscribe(account=account).call(subscription_id=subscription))
    except EWSError:
        pass
    else:
        raise AssertionError("the subscription was there twice")


def streams(account):
    (subscription,) = SubscribeToStreaming(account=account).call(folders=calendar(account), event_types=EVENTS)
    stream = GetStreamingEvents(account=account)
    for told in stream.call(subscription_ids=[subscription], connection_timeout=1):
        assert told.subscription_id == subscription, told
        if any(isinstance(event, CreatedEvent) for event in told.events):
            stream.stop_streaming()
            return
    raise AssertionError("the stream ended without an event")


def is_called_back(account):
    seen, done = [], threading.Event()

    class Listener(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            service = SendNotification(protocol=None)
            events = [event for told in service.parse(body) for event in told.events]
            seen.extend(events)
            finished = any(isinstance(event, CreatedEvent) for event in events)
            answer = service.unsubscribe_payload() if finished else service.ok_payload()
            self.send_response(200)
            self.send_header("Content-Type", "text/xml; charset=utf-8")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)
            if finished:
                done.set()

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Listener)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    list(
        SubscribeToPush(account=account).call(
            folders=calendar(account),
            event_types=EVENTS,
            watermark=None,
            status_frequency=5,
            url=f"http://127.0.0.1:{server.server_port}/callback",
        )
    )
    assert done.wait(30), "nobody called back with a CreatedEvent"
    assert any(isinstance(event, StatusEvent) for event in seen), seen
    server.shutdown()


if __name__ == "__main__":
    main(*sys.argv[1:])
    print("exchangelib understands the simulated Exchange")
