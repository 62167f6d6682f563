// A push server as one writes it on uWebSockets: `push CLIENTS POSTS`, two addresses of 127.0.0.1. WebSocket clients come
// to the first, their path ends with their number; at the second `POST /USER` and `POST /all` give everybody concerned
// the body as a text.
//
// uWebSockets is in no package registry, so this is built by hand, from its source tree with its submodule uSockets:
//
//   cc  -O3 -flto -DLIBUS_NO_SSL -I$UWS/uSockets/src -c $UWS/uSockets/src/*.c $UWS/uSockets/src/eventing/epoll_kqueue.c
//   c++ -O3 -flto -std=c++20 -DLIBUS_NO_SSL -DUWS_NO_ZLIB -I$UWS/src -I$UWS/uSockets/src push.cpp *.o -o push
//
// and given to `scripts/bench.sh peers --peer uwebsockets=PATH`. One thread, one loop, settings as the library has
// them (it pings who says nothing for two minutes, and drops what would make a client's backlog exceed 64 KiB).

#include "App.h"

#include <cstdlib>
#include <iostream>
#include <string>
#include <unordered_map>

struct Client {
    unsigned user;
};

using Socket = uWS::WebSocket<false, true, Client>;

static unsigned last_number(std::string_view path) {
    return std::strtoul(std::string(path.substr(path.rfind('/') + 1)).c_str(), nullptr, 10);
}

static int port(const char *address) {
    const std::string_view text(address);
    return std::atoi(address + text.rfind(':') + 1);
}

int main(int count, char **arguments) {
    if (count != 3) {
        std::cerr << "usage: push CLIENTS POSTS" << std::endl;
        return 64;
    }
    std::unordered_map<unsigned, Socket *> clients;
    uWS::App app;

    app.ws<Client>("/*", {
        .compression = uWS::DISABLED,
        .upgrade = [](auto *response, auto *request, auto *context) {
            response->template upgrade<Client>(
                {last_number(request->getUrl())}, request->getHeader("sec-websocket-key"),
                request->getHeader("sec-websocket-protocol"), request->getHeader("sec-websocket-extensions"), context);
        },
        .open = [&clients](Socket *socket) {
            clients[socket->getUserData()->user] = socket;
            socket->subscribe("all");
        },
        .close = [&clients](Socket *socket, int, std::string_view) {
            const auto found = clients.find(socket->getUserData()->user);
            // It may have come again meanwhile.
            if (found != clients.end() && found->second == socket) clients.erase(found);
        },
    });

    app.post("/*", [&](auto *response, auto *request) {
        const std::string target(request->getUrl().substr(1));
        response->onAborted([] {});
        response->onData([&, response, target, body = std::string()](std::string_view part, bool last) mutable {
            body.append(part);
            if (!last) return;
            if (target == "all") {
                app.publish("all", body, uWS::OpCode::TEXT, false);
                response->writeStatus("204 No Content")->end();
                return;
            }
            const auto found = clients.find(last_number(target));
            if (found != clients.end()) found->second->send(body, uWS::OpCode::TEXT, false);
            response->writeStatus(found != clients.end() ? "204 No Content" : "404 Not Found")->end();
        });
    });

    for (int which : {1, 2}) {
        app.listen("127.0.0.1", port(arguments[which]), [&](auto *listening) {
            if (!listening) {
                std::cerr << arguments[which] << ": can't listen" << std::endl;
                std::exit(1);
            }
        });
    }
    app.run();
}
