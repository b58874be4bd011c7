"""Malformed and hostile requests as a text table, and how its notation becomes bytes.

Each row says what the client may be answered (a status, or `close` for a connection that ends without an answer), what
is wrong, and what is sent. Rows of a section are filled into its template.

In what is sent `⏎` is CR LF, `␊` LF, `␍` CR, `␀` NUL, `␉` a tab, `␠` a space, `«ff»` bytes in hexadecimal, `‹a×9›` the
text repeated. `$post` and `$get` begin a good request, `$chat` is a good body and `$size` its length, `$key` a good
key. `$note` stands for bytes that must never be seen again, in an answer or in a log.
"""

import gzip
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

NOTE: Final = b"kanari-7f3a"
CLOSE: Final = "close"

_CHAT: Final = b'{"model":"gpt-4o","messages":[{"role":"user","content":"%b"}],"max_tokens":1}' % NOTE

TEMPLATES: Final = {
    "field": "$post{}⏎Content-Length: $size⏎⏎$chat",
    "key": "POST /v1/chat/completions HTTP/1.1⏎Host: proxy.test⏎X-Note: $note⏎{}⏎Content-Length: $size⏎⏎$chat",
    "target": "{} HTTP/1.1⏎Host: proxy.test⏎Authorization: Bearer $key⏎X-Note: $note⏎⏎",
    "chat": '{"model":"gpt-4o","messages":[{"role":"user","content":"$note"}],{}}',
    "completion": '{"model":"gpt-3.5-turbo-instruct","prompt":"$note",{}}',
    "embedding": '{"model":"text-embedding-3-small",{}}',
    "response": '{"model":"gpt-4o",{}}',
    "conversation": "{{}}",
    "moderation": "{{}}",
}
"""Sections whose rows are a part of something; those of others are all that is sent."""
BODIES: Final = {
    "body": b"/v1/chat/completions",
    "chat": b"/v1/chat/completions",
    "completion": b"/v1/completions",
    "embedding": b"/v1/embeddings",
    "response": b"/v1/responses",
    "conversation": b"/v1/conversations",
    "moderation": b"/v1/moderations",
}
"""Sections whose rows are a body, and where it is posted."""

TABLE: Final = r"""
== request: framing that two parsers could read in two ways, and what is no HTTP
400       | length and chunks                        | $postContent-Length: 5⏎Transfer-Encoding: chunked⏎⏎0⏎⏎
400       | chunks and length                        | $postTransfer-Encoding: chunked⏎Content-Length: 5⏎⏎0⏎⏎
400       | length and chunks hide a request         | $postContent-Length: 6⏎Transfer-Encoding: chunked⏎⏎0⏎⏎$get⏎
400       | chunks and length hide a request         | $postTransfer-Encoding: chunked⏎Content-Length: 4⏎⏎1e⏎$get⏎0⏎⏎
400       | length of none and chunks                | $postContent-Length: 0⏎Transfer-Encoding: chunked⏎⏎$get⏎
400       | two lengths                              | $postContent-Length: 3⏎Content-Length: 4⏎⏎abcd
400       | two lengths, one of them hides a request | $postContent-Length: 0⏎Content-Length: 44⏎⏎$get⏎
400       | the same length twice                    | $postContent-Length: 4⏎Content-Length: 4⏎⏎abcd
400       | lengths in a list                        | $postContent-Length: 4, 4⏎⏎abcd
400       | different lengths in a list              | $postContent-Length: 4, 5⏎⏎abcd
400       | negative length                          | $postContent-Length: -1⏎⏎
400       | length with a sign                       | $postContent-Length: +4⏎⏎abcd
400       | length with an exponent                  | $postContent-Length: 1e3⏎⏎
400       | length in hexadecimal                    | $postContent-Length: 0x4⏎⏎abcd
400       | length with a fraction                   | $postContent-Length: 4.0⏎⏎abcd
400       | length with a space inside               | $postContent-Length: 1 4⏎⏎abcd
400       | empty length                             | $postContent-Length:⏎⏎
400       | length in words                          | $postContent-Length: four⏎⏎abcd
400       | length in foreign digits                 | $postContent-Length: ٤⏎⏎abcd
400       | length in quotes                         | $postContent-Length: "4"⏎⏎abcd
400       | length beyond 2^64                       | $postContent-Length: 18446744073709551620⏎⏎abcd
400       | length of 5000 digits                    | $postContent-Length: ‹9×5000›⏎⏎abcd
400|413   | length of 2^63                           | $postContent-Length: 9223372036854775807⏎⏎abcd
400       | length with NUL                          | $postContent-Length: 4␀⏎⏎abcd
400       | length after a vertical tab              | $postContent-Length: «0b»4⏎⏎abcd
400       | space before the colon of a length       | $postContent-Length : 4⏎⏎abcd
400       | chunks and identity                      | $postTransfer-Encoding: chunked⏎Transfer-Encoding: identity⏎⏎0⏎⏎$get⏎
400       | identity and chunks                      | $postTransfer-Encoding: identity⏎Transfer-Encoding: chunked⏎⏎0⏎⏎
400       | chunked, then identity, in a list        | $postTransfer-Encoding: chunked, identity⏎⏎0⏎⏎
400       | chunked twice                            | $postTransfer-Encoding: chunked, chunked⏎⏎0⏎⏎
400       | chunked twice in two lines               | $postTransfer-Encoding: chunked⏎Transfer-Encoding: chunked⏎⏎0⏎⏎
400       | a coding that is nearly chunked          | $postTransfer-Encoding: xchunked⏎⏎0⏎⏎
400       | chunked with a parameter                 | $postTransfer-Encoding: chunked;x=1⏎⏎0⏎⏎
400       | chunked in quotes                        | $postTransfer-Encoding: "chunked"⏎⏎0⏎⏎
400       | chunked after a vertical tab             | $postTransfer-Encoding: «0b»chunked⏎⏎0⏎⏎
400       | chunked with NUL                         | $postTransfer-Encoding: chunked␀⏎⏎0⏎⏎
400       | chunked after a bare LF                  | $postX: a␊Transfer-Encoding: chunked⏎⏎0⏎⏎
400       | chunked after a bare CR                  | $postX: a␍Transfer-Encoding: chunked⏎⏎0⏎⏎
400       | space before the colon of a coding       | $postTransfer-Encoding : chunked⏎⏎0⏎⏎
400       | tab before the colon of a coding         | $postTransfer-Encoding␉: chunked⏎⏎0⏎⏎
400       | coding in a folded line                  | $postX: a⏎ Transfer-Encoding: chunked⏎⏎0⏎⏎
400       | folded coding                            | $postTransfer-Encoding:⏎ chunked⏎⏎0⏎⏎
400       | folded length                            | $postContent-Length:⏎ 4⏎⏎abcd
400       | coding under a look-alike name           | $postTransfer_Encoding: chunked⏎Transfer-Encoding: gzip⏎⏎0⏎⏎
400       | coding with a letter of another alphabet | $postTransfer-Encoding: «63»hunкed⏎⏎0⏎⏎
400       | gzip as a transfer coding                | $postTransfer-Encoding: gzip⏎⏎0⏎⏎
400       | gzip, then chunks                        | $postTransfer-Encoding: gzip, chunked⏎⏎0⏎⏎
400       | chunks in HTTP/1.0                       | POST /v1/chat/completions HTTP/1.0⏎Host: a⏎Authorization: Bearer $key⏎Content-Length: 3⏎Transfer-Encoding: chunked⏎⏎0⏎⏎
400       | chunk size in words                      | $postTransfer-Encoding: chunked⏎⏎four⏎abcd⏎0⏎⏎
400       | negative chunk size                      | $postTransfer-Encoding: chunked⏎⏎-4⏎abcd⏎0⏎⏎
400       | chunk size with a sign                   | $postTransfer-Encoding: chunked⏎⏎+4⏎abcd⏎0⏎⏎
400       | chunk size with 0x                       | $postTransfer-Encoding: chunked⏎⏎0x4⏎abcd⏎0⏎⏎
400       | chunk size with an underscore            | $postTransfer-Encoding: chunked⏎⏎1_0⏎abcd⏎0⏎⏎
400       | chunk size beyond 2^64                   | $postTransfer-Encoding: chunked⏎⏎10000000000000004⏎abcd⏎0⏎⏎
400       | empty chunk size                         | $postTransfer-Encoding: chunked⏎⏎⏎abcd⏎0⏎⏎
400       | chunk size in front of a space           | $postTransfer-Encoding: chunked⏎⏎4 4⏎abcd⏎0⏎⏎
400       | chunk shorter than its data              | $postTransfer-Encoding: chunked⏎⏎3⏎abcd⏎0⏎⏎
400       | chunk size ended by LF alone             | $postTransfer-Encoding: chunked⏎⏎4␊abcd⏎0⏎⏎
400       | chunk size ended by CR alone             | $postTransfer-Encoding: chunked⏎⏎4␍abcd⏎0⏎⏎
400       | chunk data ended by LF alone             | $postTransfer-Encoding: chunked⏎⏎4⏎abcd␊0⏎⏎
400       | chunk extension with NUL                 | $postTransfer-Encoding: chunked⏎⏎4;a=␀⏎abcd⏎0⏎⏎
400       | chunk extension ended by LF              | $postTransfer-Encoding: chunked⏎⏎4;a␊abcd⏎0⏎⏎
400       | chunk extension without end              | $postTransfer-Encoding: chunked⏎⏎4;‹a×70000›⏎abcd⏎0⏎⏎
400       | trailer that is no field                 | $postTransfer-Encoding: chunked⏎⏎4⏎abcd⏎0⏎no field⏎⏎
400       | trailer with NUL                         | $postTransfer-Encoding: chunked⏎⏎4⏎abcd⏎0⏎X: ␀⏎⏎
400|431   | trailers without end                     | $postTransfer-Encoding: chunked⏎⏎4⏎abcd⏎0⏎‹X: abcdefgh⏎×9000›⏎
400       | lines ended by LF alone                  | GET /v1/models HTTP/1.1␊Host: a␊Authorization: Bearer $key␊␊
400       | tunnel without a version, ended by LF     | CONNECT evil.example␊⏎$note
400       | lines ended by CR alone                  | GET /v1/models HTTP/1.1␍Host: a␍Authorization: Bearer $key␍␍
400       | head ended by LF                         | GET /v1/models HTTP/1.1⏎Host: a⏎Authorization: Bearer $key⏎␊$get⏎
400       | bare CR inside of a line                 | GET /v1/models HTTP/1.1⏎Host: a⏎X: $note␍y⏎⏎
400       | folded line                              | $getX: $note⏎ more⏎⏎
400       | folded line with a tab                   | $getX: $note⏎␉more⏎⏎
400       | first field begins with a space          | GET /v1/models HTTP/1.1⏎ Host: a⏎⏎
400       | field without a colon                    | $get$note⏎⏎
400       | field without a name                     | $get: $note⏎⏎
400       | name with a space                        | $getX Y: $note⏎⏎
400       | space before a colon                     | $getX : $note⏎⏎
400       | name with NUL                            | $getX␀: $note⏎⏎
400       | name with a bracket                      | $getX(Y): $note⏎⏎
400       | name outside ASCII                       | $getX-Clé: $note⏎⏎
400       | name with DEL                            | $getX«7f»: $note⏎⏎
400       | value with NUL                           | $getX: $note␀⏎⏎
400       | value with SOH                           | $getX: $note«01»⏎⏎
400       | value with ESC                           | $getX: $note«1b»[31m⏎⏎
400       | value with DEL                           | $getX: $note«7f»⏎⏎
400       | no host                                  | GET /v1/models HTTP/1.1⏎Authorization: Bearer $key⏎X: $note⏎⏎
400       | two hosts                                | $getHost: $note⏎⏎
400       | no version                               | GET /v1/models⏎Host: a⏎X: $note⏎⏎
400       | HTTP/0.9                                 | GET /v1/models HTTP/0.9⏎Host: a⏎⏎
400       | HTTP/2 in words                          | GET /v1/models HTTP/2.0⏎Host: a⏎X: $note⏎⏎
400       | HTTP/2 preface                           | PRI * HTTP/2.0⏎⏎SM⏎⏎
400       | HTTP/3 in words                          | GET /v1/models HTTP/3.0⏎Host: a⏎⏎
400       | HTTP/1.2                                 | GET /v1/models HTTP/1.2⏎Host: a⏎⏎
400       | version of many digits                   | GET /v1/models HTTP/1.10⏎Host: a⏎⏎
400       | version in lower case                    | GET /v1/models http/1.1⏎Host: a⏎⏎
400       | another protocol                         | GET /v1/models RTSP/1.0⏎Host: a⏎⏎
400       | ICE                                      | SOURCE /v1/models ICE/1.0⏎Host: a⏎⏎
400       | TLS                                      | «16 03 01 02 00 01 00 01 fc 03 03»$note⏎⏎
400       | SSH                                      | SSH-2.0-$note⏎⏎
400       | zeroes                                   | ‹␀×4000›
400       | noise                                    | «ff fe fd fc 80 81 0a 0d 0a 0d»$note⏎⏎
400       | method in lower case                     | get /v1/models HTTP/1.1⏎Host: a⏎⏎
400       | method of our own                        | METER /v1/models HTTP/1.1⏎Host: a⏎⏎
400       | method with NUL                          | GE␀T /v1/models HTTP/1.1⏎Host: a⏎⏎
400       | method outside ASCII                     | GÉT /v1/models HTTP/1.1⏎Host: a⏎⏎
400|431   | method without end                       | ‹A×9000› /v1/models HTTP/1.1⏎Host: a⏎⏎
400       | tab between method and target            | GET␉/v1/models HTTP/1.1⏎Host: a⏎⏎
400       | no target                                | GET  HTTP/1.1⏎Host: a⏎⏎
400       | space in the target                      | GET /v1/models x HTTP/1.1⏎Host: a⏎⏎
400       | target with NUL                          | GET /v1/models␀ HTTP/1.1⏎Host: a⏎⏎
400       | target with a bare LF                    | GET /v1/models␊X: $note HTTP/1.1⏎Host: a⏎⏎
400|404   | target with a control character          | GET /v1/models«01» HTTP/1.1⏎Host: a⏎Authorization: Bearer $key⏎⏎
400|404   | target outside ASCII                     | GET /v1/modèls HTTP/1.1⏎Host: a⏎Authorization: Bearer $key⏎⏎
400|404   | target that is not UTF-8                 | GET /v1/models/«ff fe» HTTP/1.1⏎Host: a⏎Authorization: Bearer $key⏎⏎
405       | tunnel                                   | CONNECT evil.example:443 HTTP/1.1⏎Host: evil.example⏎X: $note⏎⏎
405       | tunnel to a path                         | CONNECT /v1/models HTTP/1.1⏎Host: a⏎X: $note⏎⏎$get⏎
431|400   | one huge field                           | $getX: ‹$note×5000›⏎⏎
431|400   | one huge name                            | $get‹X×40000›: $note⏎⏎
431|400   | a thousand fields                        | $get‹X: $note⏎×1000›⏎
431|400   | huge target                              | GET /v1/‹a×40000› HTTP/1.1⏎Host: a⏎⏎
431|400   | huge query                               | GET /v1/models?‹a×40000› HTTP/1.1⏎Host: a⏎⏎
431|400   | huge version                             | GET /v1/models HTTP/‹1×40000›⏎Host: a⏎⏎
431|400   | field that never ends                    | $getX: ‹a×300000›

== field: headers of a request that is good but for them
415       | gzip                                     | Content-Encoding: gzip
415       | brotli                                   | Content-Encoding: br
415       | zstandard in capitals                    | CONTENT-ENCODING: ZSTD
415       | identity, gzip                           | Content-Encoding: identity, gzip
415       | gzip in a second line                    | Content-Encoding: identity⏎Content-Encoding: gzip
415       | a coding of odd bytes                    | Content-Encoding: «ff»$note
415       | an empty coding after another            | Content-Encoding: ,gzip
400       | empty conversation                       | X-Meterproxy-Conversation:
400       | long conversation                        | X-Meterproxy-Conversation: ‹$note×20›
400       | conversation that is not printable       | X-Meterproxy-Conversation: a␉b$note
400       | tags that are none                       | X-Meterproxy-Tags: $note
400       | too many tags                            | X-Meterproxy-Tags: a=1,b=1,c=1,d=1,e=1,f=1,g=1,h=1,i=1,j=1,k=$note
400       | a tag twice                              | X-Meterproxy-Tags: a=1, a=$note
400       | long tag                                 | X-Meterproxy-Tags: a=‹$note×20›
400       | tag without a name                       | X-Meterproxy-Tags: =$note

== key: credentials that are none
401       | none                                     | X: $note
401       | empty                                    | Authorization:
401       | scheme only                              | Authorization: Bearer
401       | scheme and spaces                        | Authorization: Bearer ␠␠␠
401       | unknown key                              | Authorization: Bearer mp-$note
401       | our key with a byte more                 | Authorization: Bearer $keyA
401       | another prefix                           | Authorization: Bearer sk-$note
401       | no prefix                                | Authorization: Bearer $note
401       | another scheme                           | Authorization: Basic $key
401       | a scheme that looks alike                | Authorization: Веarer $key
401       | a scheme that begins alike               | Authorization: Bearers $key
401       | a scheme and a tab                       | Authorization: Bearer␉$key
401       | no space                                 | Authorization: Bearer$key
401       | bare                                     | Authorization: $key
401       | twice the scheme                         | Authorization: Bearer Bearer $key
401       | two words                                | Authorization: Bearer $key $note
401       | in quotes                                | Authorization: Bearer "$key"
401       | a list                                   | Authorization: Bearer $key,mp-$note
401       | two different                            | Authorization: Bearer $key⏎Authorization: Bearer mp-$note
401       | two different, the other way             | Authorization: Bearer mp-$note⏎Authorization: Bearer $key
401       | outside ASCII                            | Authorization: Bearer mp-é$note
401       | not UTF-8                                | Authorization: Bearer mp-«ff fe»$note
401       | foreign digits                           | Authorization: Bearer mp-١٢٣$note
401       | full-width letters                       | Authorization: Bearer ｍｐ-$note
401       | percent signs                            | Authorization: Bearer mp-%00$note
401       | SQL                                      | Authorization: Bearer mp-' OR 1=1 --$note
401       | huge                                     | Authorization: Bearer mp-‹$note×700›
401       | wrong bearer before a good x-api-key     | Authorization: Bearer mp-$note⏎x-api-key: $key
401       | unknown x-api-key                        | x-api-key: mp-$note
401       | odd x-api-key                            | x-api-key: «e9 80 ff»$note
401       | empty x-api-key                          | x-api-key:
401       | scheme in x-api-key                      | x-api-key: Bearer $key
401       | two different x-api-keys                 | x-api-key: mp-$note⏎x-api-key: $key
401       | two different x-api-keys, the other way  | x-api-key: $key⏎x-api-key: mp-$note
401       | Azure's header                           | api-key: $key
401       | proxy authorization                      | Proxy-Authorization: Bearer $key
401       | cookie                                   | Cookie: Authorization=Bearer $key
401       | name with an underscore                  | X_Api_Key: $key
400       | key with NUL                             | Authorization: Bearer mp-␀$note
400       | key with a bare CR                       | Authorization: Bearer mp-␍$note
400       | key with a bare LF                       | Authorization: Bearer mp-␊$note

== target: paths and methods that lead nowhere
404       | unknown                                  | GET /v1/nothing
404       | the prefix alone                         | GET /v1/
404       | without the version                      | GET /chat/completions
404       | another version                          | GET /v2/models
404       | capitals                                 | GET /V1/models
404       | capitals behind the version              | GET /v1/Models
404       | trailing slash                           | GET /v1/models/
404       | empty segment                            | GET /v1//models
404       | empty segment first                      | GET //v1/models
404       | dot segment                              | GET /v1/./models
404       | dot segments                             | GET /v1/chat/../models
404       | dot segments to the operator             | GET /v1/../admin/accounts
404       | encoded dot segments                     | GET /v1/%2e%2e/admin/accounts
404       | half encoded dot segments                | GET /v1/.%2E/models
404       | dot as an id                             | GET /v1/models/.
404       | encoded dots as an id                    | GET /v1/models/%2e%2e
404       | dots behind an encoded slash             | GET /v1/models/a%2F..%2Fb
404       | encoded slash                            | GET /v1%2Fmodels
404       | encoded slash behind the version         | GET /v1/chat%2Fcompletions
404       | encoded letter                           | GET /v1/%6dodels
404       | backslash                                | GET /v1\models
404       | encoded backslash                        | GET /v1/models/a%5Cb
404       | encoded NUL                              | GET /v1/models/%00
404       | encoded NUL behind a name                | GET /v1/models%00
404       | encoded line end                         | GET /v1/models/a%0d%0aX:%20b
404       | encoded DEL                              | GET /v1/models/%7f
404       | encoded C1                               | GET /v1/models/%c2%85
404       | overlong slash                           | GET /v1/models/%c0%af
404       | not UTF-8                                | GET /v1/models/%ff
404       | surrogate                                | GET /v1/models/%ed%a0%80
404       | bad escape                               | GET /v1/models/%zz
404       | cut escape                               | GET /v1/models/%2
404       | percent alone                            | GET /v1/models/%
404       | twice encoded                            | GET /v1/models/%252e%252e
404       | parameters                               | GET /v1/models;x=y
404       | parameters with dots                     | GET /v1/..;/admin
404       | bracket                                  | GET /v1/models/[x]
404       | quote                                    | GET /v1/models/"x"
404       | angle                                    | GET /v1/models/<script>
404       | long id                                  | GET /v1/models/‹a×600›
404       | many segments                            | GET /v1/‹a/×2000›
404       | unknown model                            | GET /v1/models/nothing
404       | question mark encoded                    | GET /v1/models%3Fx
400|404   | fragment                                 | GET /v1/models#x
404       | absolute to nothing                      | GET http://proxy.test/v1/nothing
404|405   | absolute without a path                  | DELETE http://proxy.test
404       | absolute with dots                       | GET http://proxy.test/v1/../admin
404       | absolute twice                           | GET http://a/http://b/v1/models
400|404   | another scheme                           | GET ftp://proxy.test/v1/models
400|404   | no scheme, an authority                  | GET //proxy.test/v1/models
400|404   | scheme without an authority              | GET http:/v1/models
400|404   | a scheme that looks alike                | GET httpſ://proxy.test/v1/models
400|404   | authority only                           | GET proxy.test:443
400|404   | no slash                                 | GET v1/models
400|404   | star                                     | GET *
400|404   | star of options                          | OPTIONS *
400|404   | a file                                   | GET file:///etc/passwd
405       | delete                                   | DELETE /v1/models
405       | put                                      | PUT /v1/chat/completions
405       | patch                                    | PATCH /v1/chat/completions
405       | get of what is posted                    | GET /v1/embeddings
404       | nobody's response                        | GET /v1/responses/resp_nobody
404       | nobody's response as a stream            | GET /v1/responses/resp_nobody?stream=true
404       | nobody's response deleted                | DELETE /v1/responses/resp_nobody
404       | nobody's response cancelled              | POST /v1/responses/resp_nobody/cancel
404       | nobody's items                           | GET /v1/responses/resp_nobody/input_items
404       | nobody's completion                      | GET /v1/chat/completions/chatcmpl-nobody
404       | nobody's completion deleted              | DELETE /v1/chat/completions/chatcmpl-nobody
404       | nobody's conversation                    | GET /v1/conversations/conv_nobody
404       | an item of nobody's conversation         | GET /v1/conversations/conv_nobody/items/msg_1
404       | a list after nobody's completion         | GET /v1/chat/completions?after=chatcmpl-nobody
404       | a response with dots                     | GET /v1/responses/%2e%2e
404       | a response with a slash and dots         | GET /v1/responses/resp_1%2f..%2fresp_2
404       | a response with NUL                      | GET /v1/responses/resp_%00
404       | a response with a question mark          | GET /v1/responses/resp_1%3fstream=true
404       | a response with a line end               | DELETE /v1/responses/resp_1%0d%0a
404       | a client secret                          | POST /v1/realtime/client_secrets
404       | files                                    | GET /v1/files
403|404   | the provider's own administration        | GET /v1/organization/usage/completions
405       | trace                                    | TRACE /v1/chat/completions
405       | propfind                                 | PROPFIND /v1/models
405       | post of what is got                      | POST /v1/models
400       | nothing posted                           | POST /v1/chat/completions

== body: what is not one JSON object, or can be read in two ways
400       | empty                                    |
400       | a space                                  | ␠
400       | text                                     | $note
400       | cut in a string                          | {"model":"gpt-4o","messages":"$note
400       | cut in a name                            | {"model":"gpt-4o","mess
400       | cut after a colon                        | {"model":
400       | cut in an escape                         | {"model":"\u00
400       | cut in an object                         | {"model":"gpt-4o","messages":[{"role":"user"}
400       | comma too many                           | {"model":"gpt-4o",}
400       | no comma                                 | {"model":"gpt-4o" "stream":true}
400       | trailing bytes                           | {"model":"gpt-4o"}$note
400       | two objects                              | {"model":"gpt-4o"}{"model":"gpt-4o"}
400       | two objects in lines                     | {"model":"gpt-4o"}␊{"model":"gpt-4o"}
400       | list                                     | [{"model":"gpt-4o"}]
400       | string                                   | "gpt-4o"
400       | number                                   | 17
400       | null                                     | null
400       | true                                     | true
400       | apostrophes                              | {'model':'gpt-4o'}
400       | names without quotes                     | {model:"gpt-4o"}
400       | comment                                  | {"model":"gpt-4o"/*$note*/}
400       | byte order mark                          | «ef bb bf»$chat
400       | UTF-16                                   | «ff fe 7b 00 7d 00»
400       | UTF-16 without a mark                    | «7b 00 22 00 6d 00 22 00 3a 00 31 00 7d 00»
400       | UTF-32                                   | «7b 00 00 00 7d 00 00 00»
400       | NUL behind                               | $chat␀
400       | NUL in a string                          | {"model":"gpt-4o␀","messages":[]}
400       | line end in a string                     | {"model":"gpt-4o","x":"a␊b"}
400       | tab in a string                          | {"model":"gpt␉4o"}
400       | unknown escape                           | {"model":"gpt-4o","x":"\q"}
400       | octal escape                             | {"model":"gpt-4o","x":"\101"}
400       | escape of a newline                      | {"model":"gpt-4o","x":"\␊"}
400       | NaN                                      | {"model":"gpt-4o","messages":[],"temperature":NaN}
400       | Infinity                                 | {"model":"gpt-4o","messages":[],"temperature":Infinity}
400       | -Infinity                                | {"model":"gpt-4o","messages":[],"temperature":-Infinity}
400       | leading zero                             | {"model":"gpt-4o","max_tokens":01}
400       | leading plus                             | {"model":"gpt-4o","max_tokens":+1}
400       | hexadecimal                              | {"model":"gpt-4o","max_tokens":0x10}
400       | nothing behind the point                 | {"model":"gpt-4o","max_tokens":1.}
400       | True                                     | {"model":"gpt-4o","messages":[],"stream":True}
400       | model twice                              | {"model":"gpt-4o","model":"gpt-4o-mini","messages":[]}
400       | model in capitals                        | {"model":"gpt-4o","MODEL":"gpt-4o-mini","messages":[]}
400       | only capitals                            | {"Model":"gpt-4o","messages":[]}
400       | model again in escapes                   | {"model":"gpt-4o","\u006dodel":"gpt-4o-mini","messages":[]}
400       | stream with a long s                     | {"model":"gpt-4o","messages":[],"ſtream":true}
400       | stream with a long s in escapes          | {"model":"gpt-4o","messages":[],"\u017ftream":true}
400       | tokens with the Kelvin sign              | {"model":"gpt-4o","messages":[],"max_toKens":1}
400       | n in two cases                           | {"model":"gpt-4o","messages":[],"n":1,"N":100}
400       | messages twice                           | {"model":"gpt-4o","messages":[],"messages":[{"role":"user","content":"$note"}]}
400       | options twice within                     | {"model":"gpt-4o","messages":[],"stream":true,"stream_options":{"include_usage":true,"include_usage":false}}
400       | options in two cases within              | {"model":"gpt-4o","messages":[],"stream":true,"stream_options":{"Include_Usage":true}}
400       | name that is not UTF-8                   | {"model":"gpt-4o","«ff»":1,"messages":[]}
400       | model that is not UTF-8                  | {"model":"«ff fe»","messages":[]}
400       | half an escaped surrogate as a model     | {"model":"\ud800","messages":[]}
400       | multipart                                | --x⏎Content-Disposition: form-data; name="model"⏎⏎gpt-4o⏎--x--⏎
400       | form                                     | model=gpt-4o&messages=$note
400       | XML                                      | <?xml version="1.0"?><model>$note</model>
400       | pickle                                   | «80 04 95 10 00 00 00»$note.
400       | gzip without a word                      | «1f 8b 08 00 00 00 00 00 00 03»
400       | no model                                 | {"messages":[{"role":"user","content":"$note"}]}
400       | empty model                              | {"model":"","messages":[]}
400       | model of null                            | {"model":null,"messages":[]}
400       | model as a number                        | {"model":4,"messages":[]}
400       | model as a list                          | {"model":["gpt-4o"],"messages":[]}
400       | model as an object                       | {"model":{"id":"gpt-4o"},"messages":[]}
400       | model as a flag                          | {"model":true,"messages":[]}
400       | long model                               | {"model":"‹x×2000›","messages":[]}
404       | unknown model                            | {"model":"nothing","messages":[]}
404       | model with a NUL in escapes              | {"model":"gpt-4o\u0000","messages":[]}
404       | model with a space                       | {"model":"gpt-4o ","messages":[]}
404       | model with dots                          | {"model":"../gpt-4o","messages":[]}
404       | model in capitals                        | {"model":"GPT-4O","messages":[]}
404       | model with a glob                        | {"model":"gpt-*o","messages":[]}
404       | model with a letter that folds           | {"model":"ｇpt-4o","messages":[]}
400       | no messages                              | {"model":"gpt-4o"}
400       | messages of null                         | {"model":"gpt-4o","messages":null}
400       | messages as text                         | {"model":"gpt-4o","messages":"$note"}
400       | messages as an object                    | {"model":"gpt-4o","messages":{"role":"user"}}
400       | messages as a number                     | {"model":"gpt-4o","messages":7}
400       | message that is none                     | {"model":"gpt-4o","messages":[7]}
400       | deep                                     | {"model":"gpt-4o","messages":‹[×100000›‹]×100000›}
400       | deep in a member that nobody reads       | {"model":"gpt-4o","messages":[],"metadata":‹{"a":×100000›1‹}×100000›}
400       | deep in the options                      | {"model":"gpt-4o","messages":[],"stream":true,"stream_options":‹[×100000›‹]×100000›}
400       | deep and cut                             | {"model":"gpt-4o","messages":‹[×100000›
400       | deep objects                             | {"model":"gpt-4o","x":‹{"x":×100000›1‹}×100000›}
400       | a million members                        | {"model":"gpt-4o"‹,"x":1×1000000›}
400       | many messages                            | {"model":"gpt-4o","messages":[‹{},×100000›{}]}
400       | huge number                              | {"model":"gpt-4o","messages":[],"max_tokens":‹9×500000›}
400       | huge name                                | {"‹x×500000›":1}
400       | endless spaces                           | ‹ ×500000›
400       | endless quotes                           | ‹"×500000›
400       | endless backslashes                      | {"‹\×500000›

== chat: members of the wrong type, or out of range
400       | stream as text                           | "stream":"true"
400       | stream as a number                       | "stream":1
400       | stream as a list                         | "stream":[]
400       | stream as an object                      | "stream":{}
400       | maximum as text                          | "max_tokens":"1"
400       | maximum as a flag                        | "max_tokens":true
400       | maximum as a list                        | "max_tokens":[1]
400       | maximum as an object                     | "max_tokens":{"x":1}
400       | maximum below none                       | "max_tokens":-1
400       | maximum of minus none                    | "max_tokens":-0
400       | maximum of none                          | "max_tokens":0
400       | maximum with a fraction                  | "max_tokens":1.5
400       | maximum with an empty fraction           | "max_tokens":1.0
400       | maximum with an exponent                 | "max_tokens":1e1
400       | maximum with a vast exponent             | "max_tokens":1e400000
400       | maximum above 2^31                       | "max_tokens":2147483649
400       | maximum of 2^63                          | "max_tokens":9223372036854775808
400       | maximum of 2^64                          | "max_tokens":18446744073709551616
400       | maximum of many digits                   | "max_tokens":‹9×5000›
400       | the other maximum with a fraction        | "max_completion_tokens":7.5
400       | the other maximum of 2^63                | "max_completion_tokens":9223372036854775807
400       | one good maximum, one bad                | "max_tokens":1,"max_completion_tokens":-1
400       | n as text                                | "n":"2"
400       | n below none                             | "n":-1
400       | n of none                                | "n":0
400       | n with a fraction                        | "n":1.5
400       | n with an exponent                       | "n":1e2
400       | n above what is allowed                  | "n":129
400       | n of 2^63                                | "n":9223372036854775808
400       | options as text                          | "stream":true,"stream_options":"include_usage"
400       | options as a list                        | "stream":true,"stream_options":[]
400       | options as a flag                        | "stream":true,"stream_options":true
400       | option as text                           | "stream":true,"stream_options":{"include_usage":"yes"}
400       | options without a stream                 | "stream_options":{"include_usage":true}
400       | tier as a number                         | "service_tier":1
400       | tier as a list                           | "service_tier":["flex"]
400       | unknown tier                             | "service_tier":"free"
400       | long tier                                | "service_tier":"‹x×2000›"
400       | huge tier                                | "service_tier":"‹x×5000000›"
400       | tier with half a surrogate               | "service_tier":"\ud800"
400       | part of a listed type                    | "messages":[{"role":"user","content":[{"type":["text"]}]}]
400       | modalities as text                       | "modalities":"text"
400       | modalities as a number                   | "modalities":3
400       | prediction as text                       | "prediction":"$note"
400       | prediction as a list                     | "prediction":[]
400       | tools as text                            | "tools":"$note"
400       | tools as an object                       | "tools":{"type":"function"}
400       | functions as a number                    | "functions":1
400       | an unknown name with half a surrogate    | "max_tok\ud800ens":7.5
400       | format as text                           | "response_format":"json"
400       | search as text                           | "web_search_options":"yes"

== completion: members of completions
400       | prompt again                             | "prompt":"x"
400       | maximum as text                          | "max_tokens":"1"
400       | maximum with a fraction                  | "max_tokens":0.5
400       | best_of as text                          | "best_of":"2"
400       | best_of below none                       | "best_of":-2
400       | best_of of 2^63                          | "best_of":9223372036854775808
400       | best_of with a fraction                  | "best_of":1.5
400       | best_of above what is allowed            | "best_of":129
400       | n above what is allowed                  | "n":1000
400       | suffix as a number                       | "suffix":7
400       | stream as text                           | "stream":"yes"

== embedding: members of embeddings
400       | no input                                 | "user":"$note"
400       | input of null                            | "input":null
400       | input as a number                        | "input":7
400       | input as an object                       | "input":{"text":"$note"}
400       | input of too many texts                  | "input":["x"‹,"x"×2048›]
400       | input of too many lists                  | "input":[[1]‹,[1]×2048›]
400       | input of too many objects                | "input":[{}‹,{}×100000›]
400       | input twice                              | "input":"x","input":"y"
400       | input in two cases                       | "input":"x","INPUT":"y"
400       | dimensions as text                       | "input":"x","dimensions":"many"

== response: members of responses, and what they may mention
400       | no input                                 | "store":false
400       | input as a number                        | "input":7
400       | input as a flag                          | "input":true
400       | input twice                              | "input":"x","input":"y"
400       | maximum as text                          | "input":"x","max_output_tokens":"1"
400       | maximum below none                       | "input":"x","max_output_tokens":-1
400       | maximum with a fraction                  | "input":"x","max_output_tokens":16.5
400       | maximum with an exponent                 | "input":"x","max_output_tokens":1e2
400       | maximum of 2^63                          | "input":"x","max_output_tokens":9223372036854775808
400       | tool calls as text                       | "input":"x","max_tool_calls":"1"
400       | tool calls of 2^64                       | "input":"x","max_tool_calls":18446744073709551616
400       | stream as text                           | "input":"x","stream":"true"
400       | background as a number                   | "input":"x","background":1
400       | background as text                       | "input":"x","background":"true"
400       | store as text                            | "input":"x","store":"true"
400       | store with a long s                      | "input":"x","ſtore":false
400       | tools as text                            | "input":"x","tools":"web_search"
400       | tools of numbers                         | "input":"x","tools":[1]
404       | nobody's response                        | "input":"x","previous_response_id":"resp_nobody"
404       | nobody's response in escapes             | "input":"x","previous_response_id":"\u0072esp_nobody"
404       | nobody's response under an escaped name  | "input":"x","previou\u0073_response_id":"resp_nobody"
400       | the response before in another case      | "input":"x","Previous_Response_Id":"resp_nobody"
400       | two responses before                     | "input":"x","previous_response_id":null,"previous_response_id":"resp_nobody"
400|404   | the response before as a number          | "input":"x","previous_response_id":7
400|404   | the response before as a list            | "input":"x","previous_response_id":["resp_nobody"]
400|404   | the response before with NUL             | "input":"x","previous_response_id":"resp_\u0000"
400|404   | the response before with a surrogate     | "input":"x","previous_response_id":"resp_\ud800"
400|404   | the response before with a slash         | "input":"x","previous_response_id":"../resp_nobody"
400|404   | an empty response before                 | "input":"x","previous_response_id":""
404       | nobody's conversation                    | "input":"x","conversation":"conv_nobody"
404       | nobody's conversation in an object       | "input":"x","conversation":{"id":"conv_nobody"}
400|404   | nobody's conversation twice in an object | "input":"x","conversation":{"id":null,"id":"conv_nobody"}
400|404   | conversation as a number                 | "input":"x","conversation":7
404       | nobody's prompt                          | "input":"x","prompt":{"id":"pmpt_nobody"}
404       | nobody's item                            | "input":[{"type":"item_reference","id":"msg_nobody"}]
404       | nobody's item without its type           | "input":[{"id":"msg_nobody"}]
404       | nobody's file                            | "input":[{"role":"user","content":[{"type":"input_file","file_id":"file-nobody"}]}]
404       | nobody's picture                         | "input":[{"role":"user","content":[{"type":"input_image","file_id":"file-nobody"}]}]
404       | nobody's file under an escaped name      | "input":[{"role":"user","content":[{"type":"input_file","file\u005fid":"file-nobody"}]}]
400|404   | nobody's file, twice                     | "input":[{"role":"user","content":[{"type":"input_file","file_id":null,"file_id":"file-nobody"}]}]
404       | nobody's vector store                    | "input":"x","tools":[{"type":"file_search","vector_store_ids":["vs_nobody"]}]
404       | nobody's container                       | "input":"x","tools":[{"type":"code_interpreter","container":"cntr_nobody"}]
400       | item of a listed type                    | "input":[{"type":["message"],"role":"user","content":"x"}]
400       | part of an object as its type            | "input":[{"role":"user","content":[{"type":{"x":1},"text":"x"}]}]
400       | deep input                               | "input":‹[×100000›‹]×100000›
400       | a million items                          | "input":[‹{},×1000000›{}]

== conversation: bodies of conversations
400       | items twice                              | "items":[],"items":[]
400       | items in another case                    | "Items":[]
404       | nobody's item                            | "items":[{"type":"item_reference","id":"msg_nobody"}]
404       | nobody's file                            | "items":[{"role":"user","content":[{"type":"input_file","file_id":"file-nobody"}]}]

== moderation: members of moderations
400       | no input                                 | "model":"omni-moderation-latest"
400       | input as a number                        | "input":7
404       | unknown model                            | "input":"x","model":"nothing"
400       | model twice                              | "input":"x","model":"omni-moderation-latest","model":"gpt-4o"

== typed: bodies that are not said to be JSON, or are not
400       | multipart                                | $postContent-Type: multipart/form-data; boundary=x⏎Content-Length: 79⏎⏎--x⏎Content-Disposition: form-data; name="model"⏎⏎gpt-4o⏎--x--⏎$note
400       | multipart without a boundary             | $postContent-Type: multipart/form-data⏎Content-Length: 4⏎⏎--x⏎
400       | form                                     | $postContent-Type: application/x-www-form-urlencoded⏎Content-Length: 12⏎⏎model=gpt-4o
400       | event stream                             | $postContent-Type: text/event-stream⏎Content-Length: 14⏎⏎data: [DONE]␊␊
415       | gzip bomb                                | $postContent-Encoding: gzip⏎Content-Length: $bombsize⏎⏎$bomb
415       | deflated bomb                            | $postContent-Encoding: deflate⏎Content-Length: $bombsize⏎⏎$bomb
415       | gzip that is none                        | $postContent-Encoding: gzip⏎Content-Length: 11⏎⏎$note
415       | gzip in chunks                           | $postContent-Encoding: gzip⏎Transfer-Encoding: chunked⏎⏎b⏎$note⏎0⏎⏎
400       | chunks that are no JSON                  | $postTransfer-Encoding: chunked⏎⏎b⏎$note⏎0⏎⏎
400       | chunks, one byte each                    | $postTransfer-Encoding: chunked⏎⏎‹1⏎{⏎×500›0⏎⏎

== huge: bodies over the limit; what is declared is refused before it comes
413       | declared                                 | $postContent-Length: 99999999999⏎⏎
413       | declared, then sent in part              | $postContent-Length: 99999999999⏎⏎‹a×100000›
413       | declared with leading zeroes             | $postContent-Length: 000099999999999⏎⏎
413       | expected to be asked for                 | $postContent-Length: 99999999999⏎Expect: 100-continue⏎⏎

== waiting: what does not come is not waited for
408|close | half a request line                      | GET /v1/mod
408|close | half a head                              | $getX: $note
408|close | half a line end                          | $get␍
408|close | a CR                                     | ␍
close     | empty lines                              | ⏎⏎⏎
408       | a body that never comes                  | $postContent-Length: 100⏎⏎
408       | half a body                              | $postContent-Length: 100⏎⏎{"model":"$note
408       | half a chunk size                        | $postTransfer-Encoding: chunked⏎⏎1
408       | half a chunk                             | $postTransfer-Encoding: chunked⏎⏎10⏎$note
408       | half a chunk's end                       | $postTransfer-Encoding: chunked⏎⏎4⏎abcd␍
408       | no last chunk                            | $postTransfer-Encoding: chunked⏎⏎4⏎abcd⏎
408       | half a last chunk                        | $postTransfer-Encoding: chunked⏎⏎4⏎abcd⏎0⏎
408       | half a trailer                           | $postTransfer-Encoding: chunked⏎⏎4⏎abcd⏎0⏎X: y

== halved: clients that close their sending half too early
close     | nothing                                  |
400|close | half a request line                      | GET /v1/mod
400|close | half a head                              | $getX: $note
400|close | head without its last line               | $get
400|close | half a line end                          | $get␍
400       | no body                                  | $postContent-Length: 100⏎⏎
400       | half a body                              | $postContent-Length: 100⏎⏎{"model":"$note
400       | all but the last byte                    | $postContent-Length: 9⏎⏎{"a":"b"
400       | half a chunk size                        | $postTransfer-Encoding: chunked⏎⏎1
400       | half a chunk                             | $postTransfer-Encoding: chunked⏎⏎10⏎$note
400       | no last chunk                            | $postTransfer-Encoding: chunked⏎⏎4⏎abcd⏎
400       | half a last chunk                        | $postTransfer-Encoding: chunked⏎⏎4⏎abcd⏎0⏎
"""

_CONTROLS: Final = {"⏎": b"\r\n", "␊": b"\n", "␍": b"\r", "␀": b"\0", "␉": b"\t", "␠": b" "}
_NOTATION: Final = re.compile(r"⏎|␊|␍|␀|␉|␠|«([0-9a-f ]*)»|‹([^×]*)×(\d+)›|\$([a-z]+)")
_BOMB: Final = gzip.compress(b"[" * (8 << 20))


@dataclass(frozen=True)
class Hostile:
    """One row: the section, what is wrong, what may be answered, and what is sent."""

    section: str
    name: str
    answers: frozenset[str]
    wire: str

    def sent(self, secret: str) -> bytes:
        """The bytes that a client with this key sends."""
        written = _written(TEMPLATES.get(self.section, "{}").replace("{}", self.wire), secret)
        path = BODIES.get(self.section)
        if path is None:
            return written
        head = _written("$post", secret).replace(b"/v1/chat/completions", path, 1)
        return b"%bContent-Length: %d\r\n\r\n%b" % (head, len(written), written)


def _written(text: str, secret: str) -> bytes:
    """The notation's bytes."""
    position, pieces = 0, []
    for sign in _NOTATION.finditer(text):
        pieces.append(text[position : sign.start()].encode())
        position = sign.end()
        digits, repeated, times, name = sign.groups()
        if digits is not None:
            pieces.append(bytes.fromhex(digits))
        elif times is not None:
            pieces.append(_written(repeated, secret) * int(times))
        elif name is not None:
            pieces.append(_macro(name, secret))
        else:
            pieces.append(_CONTROLS[sign[0]])
    return b"".join([*pieces, text[position:].encode()])


def _macro(name: str, secret: str) -> bytes:
    if name in {"post", "get"}:
        target = {"post": "POST /v1/chat/completions", "get": "GET /v1/models"}[name]
        return _written(f"{target} HTTP/1.1⏎Host: proxy.test⏎Authorization: Bearer $key⏎X-Note: $note⏎", secret)
    size = {"size": _CHAT, "bombsize": _BOMB}
    if name in size:
        return b"%d" % len(size[name])
    return {"key": secret.encode(), "note": NOTE, "chat": _CHAT, "bomb": _BOMB}[name]


def _rows() -> Iterator[Hostile]:
    section = ""
    for line in TABLE.splitlines():
        if line.startswith("== "):
            section = line[3:].partition(":")[0]
        elif line:
            answers, name, wire = f"{line} ".split(" | ", 2)
            yield Hostile(section, name.strip(), frozenset(answers.strip().split("|")), wire.strip(" "))


ROWS: Final = tuple(_rows())
